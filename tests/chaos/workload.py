"""A driver whose tasks are of every kind, each with an answer that only it would give.

    python -m tests.chaos.workload ADDRESS FOLDER DRIVER SEED {leave|stay}

`leave` submits its tasks, writes their refs as text to a file, says "up", and waits to be killed.
`stay` submits more and more of them until there is a file `over`, and gets all that it submitted.
Every task that runs adds a letter to a file of its own in FOLDER.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import cloudray as ray

#: How many tasks of each kind there are in a hundred.
SHARES = {"plain": 40, "dependent": 22, "nested": 8, "fragile": 14, "failing": 8, "large": 8}
#: Far more than anybody is killed.
RETRIES = 1000
LARGE_BYTES = 300_000
#: Of the driver that leaves, and the least of the one that stays.
LEAVING, STAYING = 150, 180
#: So many tasks of the driver that stays are under way.
UNDER_WAY = 60
PATIENCE_S = 100
#: Answers are numbers of 32 bits.
MASK = 0xFFFFFFFF


class Item(NamedTuple):
    """One task to be."""

    kind: str
    #: names it, and the file of its runs
    name: str
    #: the positions of the tasks whose values it takes
    needs: tuple[int, ...]
    pause_s: float
    #: what it returns; of a `large` one what its bytes are made from
    answer: int


def answer_of(name: str) -> int:
    """A number that belongs to a name."""
    return zlib.crc32(name.encode())


def plan(driver: str, seed: int) -> Iterator[Item]:
    """The tasks of a driver, without end; the same ones for the same seed."""
    rng = Random(f"{driver} {seed}")
    items: list[Item] = []
    while True:
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        # The values of those that may fail nobody takes.
        sources = [
            position
            for position, item in enumerate(items[-50:], max(0, len(items) - 50))
            if item.kind not in {"fragile", "failing"}
        ]
        needs: tuple[int, ...] = ()
        if kind == "dependent" and sources:
            needs = tuple(rng.choices(sources, k=rng.randint(1, 3)))
        name = f"{driver}-{len(items)}"
        answer = answer_of(name) + sum(items[need].answer for need in needs)
        if kind == "nested":
            answer += sum(answer_of(f"{name}-{child}") for child in range(3))
        item = Item(kind, name, needs, 0.005 * 100 ** rng.random(), answer & MASK)
        items.append(item)
        yield item


def note(folder: str, name: str) -> None:
    """Remember that this ran."""
    with Path(folder, name).open("a") as file:
        file.write("x")


def bytes_of(answer: int) -> bytes:
    """A large value."""
    return Random(answer).randbytes(LARGE_BYTES)


def number_of(value: Any) -> int:
    """The number that a value stands for."""
    return int.from_bytes(value[:8], "big") if isinstance(value, bytes) else int(value)


def run(folder: str, name: str, pause_s: float, *values: Any) -> int:
    """What most tasks do: leave a trace, take time, give an answer."""
    note(folder, name)
    time.sleep(pause_s)
    return (answer_of(name) + sum(map(number_of, values))) & MASK


@ray.remote(max_retries=RETRIES)
def plain(folder: str, name: str, pause_s: float, *values: Any) -> int:
    return run(folder, name, pause_s, *values)


@ray.remote(max_retries=0)
def fragile(folder: str, name: str, pause_s: float) -> int:
    return run(folder, name, pause_s)


@ray.remote(max_retries=RETRIES)
def failing(folder: str, name: str, pause_s: float) -> int:
    run(folder, name, pause_s)
    raise ValueError(name)


@ray.remote(max_retries=RETRIES)
def large(folder: str, name: str, pause_s: float) -> bytes:
    answer = run(folder, name, pause_s)
    return answer.to_bytes(8, "big") + bytes_of(answer)


@ray.remote(max_retries=RETRIES)
def nested(folder: str, name: str, pause_s: float) -> int:
    children = [plain.remote(folder, f"{name}-{child}", pause_s) for child in range(3)]
    return (run(folder, name, 0.0) + sum(ray.get(children))) & MASK


TASKS = {
    "plain": plain,
    "dependent": plain,
    "nested": nested,
    "fragile": fragile,
    "failing": failing,
    "large": large,
}


def submit(folder: str, item: Item, earlier: list[ray.ObjectRef[Any]]) -> ray.ObjectRef[Any]:
    """Submit a task."""
    values = [earlier[need] for need in item.needs]
    ref: ray.ObjectRef[Any] = TASKS[item.kind].remote(folder, item.name, item.pause_s, *values)
    return ref


def fault_of(item: Item, ref: ray.ObjectRef[Any]) -> str | None:
    """What is wrong with the outcome of a task that has ended; None if nothing is."""
    try:
        value = ray.get(ref)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        planned = item.kind == "failing" and isinstance(error, ValueError)
        crashed = item.kind == "fragile" and isinstance(error, ray.exceptions.WorkerCrashedError)
        right = crashed or (planned and item.name in str(error))
        return None if right else f"{item.name} raised {error!r}"
    right = item.kind != "failing" and number_of(value) == item.answer
    if item.kind == "large":
        right = right and value[8:] == bytes_of(item.answer)
    return None if right else f"{item.name}, a {item.kind} task, returned {value!r:.80}"


def collect(items: list[Item], refs: list[ray.ObjectRef[Any]]) -> list[str]:
    """Wait for the outcomes of all tasks; returns what is wrong with them."""
    _, missing = ray.wait(refs, num_returns=len(refs), timeout=PATIENCE_S)
    if missing:
        lost = [item.name for item, ref in zip(items, refs, strict=True) if ref in missing]
        return [f"{item} has no outcome" for item in lost]
    faults = (fault_of(item, ref) for item, ref in zip(items, refs, strict=True))
    return [fault for fault in faults if fault is not None]


def leave(folder: str, items: Iterator[Item]) -> None:
    """Submit, tell what was submitted, and wait for the end."""
    refs: list[ray.ObjectRef[Any]] = []
    for item in islice(items, LEAVING):
        refs.append(submit(folder, item, refs))
    say([ref.hex() for ref in refs])
    time.sleep(PATIENCE_S)


def stay(folder: str, items: Iterator[Item]) -> None:
    """Submit until the storm is over, then say what is wrong."""
    refs: list[ray.ObjectRef[Any]] = []
    done: list[Item] = []
    under_way: list[ray.ObjectRef[Any]] = []
    say("up")
    while len(refs) < STAYING or not Path(folder, "over").exists():
        done.append(next(items))
        refs.append(submit(folder, done[-1], refs))
        under_way.append(refs[-1])
        if len(under_way) > UNDER_WAY:
            ended, under_way = ray.wait(under_way, num_returns=10, timeout=PATIENCE_S)
            if not ended:
                break
    say({"tasks": len(done), "faults": collect(done, refs)})


def say(what: Any) -> None:
    """Tell the round."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    address, folder, driver, seed, manner = sys.argv[1:]
    ray.init(address, log_to_driver=False)
    items = plan(driver, int(seed))
    {"leave": leave, "stay": stay}[manner](folder, items)
    ray.shutdown()


if __name__ == "__main__":
    main()
