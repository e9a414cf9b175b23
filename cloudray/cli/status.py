"""`cloudray status`: what waits, who works, and why what waits does not run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from cloudray.cli.clusters import Address, address_of, opened, start_worker
from cloudray.cli.output import Json, print_json, print_table, print_text
from cloudray.durations import show_duration

if TYPE_CHECKING:
    from cloudray.protocol.standing import AgentState, ClassState, Standing

app = typer.Typer(add_completion=False)


@app.command()
def status(address: Address = None, *, json: Json = False) -> None:
    """Show queues, agents, and a reason for everything that waits."""
    from cloudray.protocol.standing import survey
    from cloudray.store import drive

    url = address_of(address)
    with opened(url) as (store, settings):
        found = drive(store, survey(settings, time.time()))
    if json:
        print_json({"address": url, "agents": found.agents, "classes": found.classes})
    else:
        _print(url, found)


def _print(url: str, found: Standing) -> None:
    alive = found.alive
    queued = sum(each.queued_tasks for each in found.classes)
    claimed = sum(each.claimed_tasks for each in found.classes)
    print_text(
        f"{url}: {_several(len(alive), 'agent')} alive, {_several(queued, 'task')} queued, "
        f"{claimed:,} claimed"
    )
    if found.agents:
        print_text("")
        print_table(
            ("agent", "host", "CPUs free", "memory free", "others free", "python", "is", "heard"),
            [_agent_row(agent) for agent in found.agents],
            right=(2, 3),
        )
    if not alive:
        print_text(f"No agent serves it. Start one: {start_worker(url)}")
    dead = [agent for agent in found.agents if not agent.alive]
    if dead:
        print_text(_explain_silence(dead, time.time(), taken_over=bool(alive)))
    refused = sum(agent.refused for agent in found.agents)
    if refused:
        print_text(
            f"Refused: {_several(refused, 'stored record')}, damaged or written by somebody "
            "without the cluster's key; the logs of the agents say which."
        )
    if found.classes:
        print_text("")
        print_table(
            ("class", "queued tasks", "(batches)", "claimed tasks", "(batches)"),
            [_class_row(each) for each in found.classes],
            right=(1, 2, 3, 4),
        )
        waiting = [each for each in found.classes if each.reason]
        if waiting:
            print_text("")
        for each in waiting:
            print_text(f"{each.name}: {each.example or 'a task'}: {each.reason}")


def _explain_silence(dead: list[AgentState], now_s: float, *, taken_over: bool) -> str:
    """What became of agents that are silent for too long, and what becomes of their work."""
    last_s = now_s - min(agent.silent_s or 0.0 for agent in dead)
    since = f"{datetime.fromtimestamp(last_s).astimezone():%Y-%m-%d %H:%M:%S}"
    one = len(dead) == 1
    return (
        f"{_several(len(dead), 'agent')} count{'s' * one} as dead: nothing was heard of "
        f"{'it' if one else 'them'} since {since}. What {'it' if one else 'they'} held is taken "
        + ("over by those with a free slot." if taken_over else "over by the next that starts.")
    )


def _agent_row(agent: AgentState) -> tuple[str, ...]:
    state = "draining" if agent.draining else "idle" if agent.idle else "works"
    if not agent.alive:
        state = "dead"
    heard = "" if agent.silent_s is None else f"{show_duration(agent.silent_s)} ago"
    others = [name for name in agent.resources if name not in ("CPU", "memory")]
    return (
        agent.agent,
        agent.host,
        _share(agent.available, agent.resources, "CPU"),
        _share(agent.available, agent.resources, "memory"),
        ", ".join(f"{_share(agent.available, agent.resources, name)} {name}" for name in others),
        agent.python,
        state,
        heard,
    )


def _share(free: Mapping[str, float], total: Mapping[str, float], name: str) -> str:
    from cloudray.sizes import show_size

    def show(amount: float) -> str:
        return show_size(amount) if name == "memory" else f"{amount:g}"

    return f"{show(max(0.0, free.get(name, 0.0)))} of {show(total.get(name, 0.0))}"


def _class_row(each: ClassState) -> tuple[str, ...]:
    return (
        each.name,
        f"{each.queued_tasks:,}",
        f"{each.queued_batches:,}",
        f"{each.claimed_tasks:,}",
        f"{each.claimed_batches:,}",
    )


def _several(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
