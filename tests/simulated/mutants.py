"""Four faults that one might build into the protocol: `python -m tests.simulated.mutants NAME`.

Each is a small patch of the real code; the simulator must notice it within a number of seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

from cloudray.protocol import claims, sharing
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Duration, Entry, Word, seal
from cloudray.store import reliable
from cloudray.store.backoff import Pause
from cloudray.store.base import Create, Get, Op, Put, TransientStoreError
from cloudray.store.layout import QueueName
from cloudray.testing.simulate import main


def _append_over(
    journal: Journal,
    words: Sequence[Word],
    *,
    claim: int,
    durations: tuple[Duration, ...] = (),
) -> Generator[Op, Any, list[int]]:
    """Journal entries are overwritten instead of created."""
    standing = journal.sift(words)
    if not standing:
        return []
    entry = Entry(claim, standing, durations)
    number = journal.next
    yield Put(journals.key(journal.batch, number), seal(entry))
    return journal.apply(entry) if journal.next == number else []


def _create_carelessly(op: Create, **_: Any) -> Generator[Create | Get | Pause, Any, bytes | None]:
    """Who is told no after an error takes it for its own write, without a look at the nonce."""
    attempt = 0
    while True:
        try:
            if (yield op):
                return None
            if attempt:
                return None
            holder = yield Get(op.key)
            if holder is not None:
                return bytes(holder)
        except TransientStoreError:
            pass
        yield Pause(attempt)
        attempt += 1


def _give_away_first(
    journal: Journal, part: Batch, name: QueueName, *, claim: int
) -> Generator[Op, Any, list[int]]:
    """Work is given away after its MOVED entry instead of before."""
    fresh = yield from journals.append(journal, sharing.moves_to(part), claim=claim)
    yield from claims.submit(name, part)
    return fresh


def _append_by_claim(
    journal: Journal,
    words: Sequence[Word],
    *,
    claim: int,
    durations: tuple[Duration, ...] = (),
) -> Generator[Op, Any, list[int]]:
    """Who holds the claim takes its words for true, whatever else stands in the journal."""
    standing = journal.sift(words)
    if not standing:
        return []
    entry = Entry(claim, standing, durations)
    number = journal.next
    fresh = journal.apply(entry)
    while (yield Create(journals.key(journal.batch, number), seal(entry))) is not None:
        number += 1
    return fresh


def _install(name: str) -> None:
    patches: dict[str, tuple[Any, str, Callable[..., Any]]] = {
        "overwritten": (journals, "append", _append_over),
        "nonce": (reliable, "create", _create_carelessly),
        "moved": (sharing, "give_away", _give_away_first),
        "claims": (journals, "append", _append_by_claim),
    }
    module, function, mutant = patches[name]
    setattr(module, function, mutant)


if __name__ == "__main__":
    _install(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
