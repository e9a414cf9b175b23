"""Giving away work that waits on a busy agent while another one idles.

The tasks are written as a new batch first; then MOVED in the origin's journal says where they
went. In the other order a crash between the two would leave a MOVED that points nowhere, and
the tasks would be lost. In this order the worst case is a batch nobody points to, and whoever
claims that makes the MOVED stand, or finds that it lost and runs nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from cloudray import ids
from cloudray.protocol import claims
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Task, Verb, Word
from cloudray.store.base import Op
from cloudray.store.layout import QueueName


def address(batch: bytes, index: int) -> bytes:
    """A task as MOVED and `Task.origin` name it: batch id and index, 27 bytes."""
    return batch + index.to_bytes(2, "big")


def at(place: bytes) -> tuple[bytes, int]:
    """The batch and index that an address names."""
    return place[: ids.BATCH_ID_BYTES], int.from_bytes(place[ids.BATCH_ID_BYTES :], "big")


def share_of(ready: Sequence[int]) -> list[int]:
    """Which of the ready tasks to give away: the later half, rounded up."""
    return list(ready[len(ready) // 2 :])


def part_of(batch: Batch, indexes: Sequence[int], new_id: bytes) -> Batch:
    """These tasks as a batch of their own, each naming the place where it stood."""
    used = sorted({batch.tasks[index].shape for index in indexes})
    renumbered = {old: new for new, old in enumerate(used)}
    tasks = tuple(
        Task(
            renumbered[task.shape],
            task.arguments,
            task.arguments_id,
            task.depends_on,
            task.contains,
            address(batch.id, index),
        )
        for index, task in ((index, batch.tasks[index]) for index in indexes)
    )
    shapes = tuple(batch.shapes[shape] for shape in used)
    return Batch(new_id, shapes, tasks, batch.depth, batch.parent)


def give_away(
    journal: Journal, part: Batch, name: QueueName, *, claim: int
) -> Generator[Op, Any, list[int]]:
    """Put a part of our batch back into the queue as a batch of its own.

    Returns the indexes of the origin that were decided meanwhile (MOVED by us, as a rule).
    """
    yield from claims.submit(name, part)
    return (yield from journals.append(journal, moves_to(part), claim=claim))


def moves_to(part: Batch) -> list[Word]:
    """The words that say where the tasks of a given-away batch went."""
    return [
        Word(at(task.origin)[1], Verb.MOVED, (address(part.id, index),))
        for index, task in enumerate(part.tasks)
    ]


def settle(batch: Batch, journal: Journal, *, claim: int) -> Generator[Op, Any, None]:
    """Before running a batch that was given away: run only the tasks that are really ours.

    Makes MOVED stand in each origin's journal; a task that another word decided there never was
    here, and CANCELLED in our own journal says so. Nobody follows a MOVED to it.
    """
    origins: dict[bytes, list[int]] = {}
    for index, task in enumerate(batch.tasks):
        if task.origin and index not in journal.decided:
            origins.setdefault(at(task.origin)[0], []).append(index)
    void: list[int] = []
    for origin, indexes in origins.items():
        places = {index: at(batch.tasks[index].origin)[1] for index in indexes}
        there = Journal(origin, once=batch.once)
        yield from journals.catch_up(there)
        words = [
            Word(place, Verb.MOVED, (address(batch.id, index),)) for index, place in places.items()
        ]
        yield from journals.append(there, words, claim=0)
        for index, place in places.items():
            word = there.decided.get(place)
            here = (address(batch.id, index),)
            if word is None or word.verb is not Verb.MOVED or word.values != here:
                void.append(index)
    if void:
        words = [Word(index, Verb.CANCELLED) for index in void]
        yield from journals.append(journal, words, claim=claim)
