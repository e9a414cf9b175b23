"""`python -m cloudray.testing.simulate`: worlds from seeds, and what becomes of them."""

from __future__ import annotations

import argparse
import os
import sys
import time

from cloudray.testing import scale
from cloudray.testing.history import History
from cloudray.testing.readings import ViolationError
from cloudray.testing.world import World


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; the exit code says whether every invariant held."""
    parser = argparse.ArgumentParser(
        prog="python -m cloudray.testing.simulate", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=100, help="how many worlds to run")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first one")
    parser.add_argument("--seed", type=int, help="run one world")
    parser.add_argument("--agents", type=int, help="how many agents each world begins with")
    parser.add_argument("--tasks", type=int, help="roughly how many tasks each world has")
    parser.add_argument("--history", action="store_true", help="print what happens")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many")
    parser.add_argument("--every", type=int, default=100, help="worlds per line of output")
    parser.add_argument(
        "--scale", action="store_true", help="measure throughput, and what idle agents cost"
    )
    asked = parser.parse_args(arguments)
    if asked.scale:
        return _measure(asked)
    if asked.seed is not None:
        return 0 if run_seed(asked, asked.seed, tell=asked.history) else 1
    failed = 0
    for seed in range(asked.first, asked.first + asked.seeds):
        failed += not _counted(asked, seed)
        if failed >= asked.failures:
            break
    return 1 if failed else 0


def _measure(asked: argparse.Namespace) -> int:
    agents, tasks = asked.agents or 1000, asked.tasks or 1_000_000
    _say(scale.throughput(agents=agents, tasks=tasks))
    for agents in (1, 10):
        usd = scale.idle_usd_per_hour(agents=agents)
        _say(f"an idle agent, of {agents}: ${usd:.5f} per hour")
    return 0


def _counted(asked: argparse.Namespace, seed: int) -> bool:
    held = run_seed(asked, seed, tell=False)
    if not held:
        run_seed(asked, seed, tell=True)
    done = seed - asked.first + 1
    if done % asked.every == 0 or done == asked.seeds:
        _say(f"{done} worlds")
    return held


def run_seed(asked: argparse.Namespace, seed: int, *, tell: bool) -> bool:
    """Run one world; whether every invariant held."""
    history = History() if tell else None
    with World(seed, agents=asked.agents, tasks=asked.tasks, history=history) as world:
        began_s = time.perf_counter()
        violation: ViolationError | None = None
        try:
            world.run()
        except ViolationError as found:
            violation = found
        took_s = time.perf_counter() - began_s
    if history is not None:
        _say("\n".join(history.lines))
    if violation is not None:
        _say(f"seed {seed}: {violation}")
    if tell or asked.seed is not None:
        _say(f"seed {seed}: {world.summary()}; {took_s:.2f} s")
    return violation is None


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _repeatably() -> None:
    """Start again, with the hashes of strings by which every run goes through sets alike."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        command = [sys.executable, "-m", "cloudray.testing.simulate", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONHASHSEED": "0"})  # noqa: S606 - ourselves


if __name__ == "__main__":
    _repeatably()
    sys.exit(main())
