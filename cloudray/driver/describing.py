"""What a driver knows of a value or a task right now, without asking anybody."""

from __future__ import annotations

import msgspec

from cloudray import ids
from cloudray.driver.following import Following
from cloudray.exceptions import RayTaskError
from cloudray.protocol.records import Verb, Word
from cloudray.protocol.results import Results
from cloudray.sizes import show_size
from cloudray.values import codec
from cloudray.values.outcomes import load

_EXAMPLES = 3


class Counts(msgspec.Struct, frozen=True):
    """How far tasks are, as far as the driver knows."""

    done: int = 0
    running: int = 0
    queued: int = 0
    #: refs to some that have not ended
    examples: tuple[bytes, ...] = ()

    @property
    def pending(self) -> int:
        """Those that have not ended."""
        return self.running + self.queued


def final_word(results: Results, identifier: bytes) -> tuple[Word | None, bool]:
    """The final word on a task if it is known, and if not, whether an agent says that it runs."""
    word = results.find(identifier)
    if word is not None:
        return word, False
    batch, index = results.waiting_on(identifier)
    journal = results.journals.get(batch)
    return None, journal is not None and index in journal.started


def count(following: Following) -> Counts:
    """How far the tasks are that were submitted here, of those to which there are refs."""
    done = running = queued = 0
    examples: list[bytes] = []
    for batch, name in list(following.names.items()):
        anchor = following.existing_anchor(batch)
        dropped = frozenset() if anchor is None else anchor.gone - anchor.again
        for index in range(name.size):
            identifier = ids.object_id(batch, index)
            if identifier in dropped:
                continue
            word, runs = final_word(following.results, identifier)
            if word is not None:
                done += 1
                continue
            running += runs
            queued += not runs
            if len(examples) < _EXAMPLES:
                examples.append(identifier)
    return Counts(done, running, queued, tuple(examples))


def describe(results: Results, identifier: bytes) -> str:
    """One or two words on a value: `done, 1.2 MB`, `running`, `failed: ValueError`."""
    if ids.index_of(identifier) == ids.PUT_INDEX:
        return "stored"
    word, runs = final_word(results, identifier)
    if word is None:
        return "running" if runs else "pending"
    if word.verb is Verb.DONE:
        return f"done, {show_size(_size_of(word.values[ids.return_of(identifier)]))}"
    return "cancelled" if word.verb is Verb.CANCELLED else f"failed{_error_name(word)}"


def describe_here(following: Following, identifier: bytes) -> str:
    """The same for the driver that `following` is of: it knows what it has not stored yet."""
    if ids.unit_of(identifier) in following.arriving:
        return "being stored"
    return describe(following.results, identifier)


def _size_of(payload: codec.Buffer) -> int:
    stored = codec.stored_size(payload)
    return len(payload) if stored is None else stored


def _error_name(word: Word) -> str:
    payload = word.values[0]
    if codec.stored_size(payload) is not None:
        # It lies elsewhere, and nothing is asked for.
        return ""
    try:
        error = load(payload)
    except Exception:  # noqa: BLE001 - its class is the user's and may raise anything
        return ""
    cause = error.cause if isinstance(error, RayTaskError) else None
    return f": {type(error if cause is None else cause).__name__}"
