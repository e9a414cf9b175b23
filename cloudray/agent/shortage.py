"""What an agent says when the store has no room for what it should say.

Nobody may wait for ever for a word that does not fit: a smaller one, that there was no room,
takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudray.agent.held import NOBODY, Held
from cloudray.exceptions import ObjectStoreFullError
from cloudray.protocol import claims
from cloudray.protocol import journal as journals
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Batch, Duration, Verb, Word
from cloudray.sizes import show_size
from cloudray.store.base import StoreFullError
from cloudray.store.layout import QueueName
from cloudray.store.procedures import Procedure
from cloudray.values.outcomes import error_payload

#: A word with less than this is small already.
_SMALL_BYTES = 1 << 10
#: So many of them make a record for which the store has some last bytes, and fill a few pages.
_TOGETHER = 12


def publish(
    held: Held, words: Sequence[Word], durations: tuple[Duration, ...]
) -> Procedure[list[int]]:
    """Append words to a batch's journal; where the store has no room for their values, say so.

    Returns the indexes decided meanwhile. Raises `StoreFullError` when there is no room for that
    either; some of the words may stand then.
    """
    try:
        return (
            yield from journals.append(held.journal, words, claim=held.claim, durations=durations)
        )
    except StoreFullError as full:
        large = [word for word in words if _size_of(word) > _SMALL_BYTES]
        if not large:
            raise
        fresh: list[int] = []
        refused = yield from _append_what_fits(held, large, fresh)
        rest = [word for word in words if _size_of(word) <= _SMALL_BYTES]
        rest += [_lighter(held, word, full) for word in refused]
        for first in range(0, len(rest), _TOGETHER):
            some = rest[first : first + _TOGETHER]
            fresh += yield from journals.append(held.journal, some, claim=held.claim)
        return fresh


def _append_what_fits(held: Held, words: Sequence[Word], fresh: list[int]) -> Procedure[list[Word]]:
    """Append as many words as there is room for; returns the others."""
    half = len(words) // 2
    parts = [words[:half], words[half:]] if half else [words]
    refused: list[Word] = []
    for part in parts:
        try:
            fresh += yield from journals.append(held.journal, part, claim=held.claim)
        except StoreFullError:
            if len(part) == 1:
                refused += part
            else:
                refused += yield from _append_what_fits(held, part, fresh)
    return refused


def _size_of(word: Word) -> int:
    return sum(map(len, word.values))


def _lighter(held: Held, word: Word, full: StoreFullError) -> Word:
    name = held.known_of(word.index).shape.name
    what = "The result" if word.verb is Verb.DONE else "The exception"
    error = ObjectStoreFullError(
        f"{what} of {name} ({show_size(_size_of(word))}) could not be stored: {full}"
    )
    return Word(word.index, Verb.FAILED, (error_payload(error),), word.attempt)


def submit(name: QueueName, batch: Batch) -> Procedure[None]:
    """Store a batch that a task submits; where the store has no room for it, its tasks fail.

    Its refs are out already, so its journal says what became of it.
    """
    try:
        yield from claims.submit(name, batch)
    except StoreFullError as full:
        words: list[Word] = []
        for index, task in enumerate(batch.tasks):
            error = ObjectStoreFullError(
                f"{batch.shapes[task.shape].name} could not be submitted: {full}"
            )
            words.append(Word(index, Verb.FAILED, (error_payload(error),), NOBODY))
        journal = Journal(batch.id, len(batch.tasks), once=batch.once)
        for first in range(0, len(words), _TOGETHER):
            yield from journals.append(journal, words[first : first + _TOGETHER], claim=0)
