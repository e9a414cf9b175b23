"""What is left of a job that has ended, and who may still write for it."""

from __future__ import annotations

from typing import Any

import pytest

from cloudray import ids
from cloudray.exceptions import ObjectLostError
from cloudray.protocol import claims, endings, jobs
from cloudray.protocol import journal as journals
from cloudray.protocol.jobs import Listed
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Claim, Ending, Entry, Verb, seal
from cloudray.protocol.results import Results
from cloudray.store import Kind, MemoryStore, Reliable, drive, layout
from cloudray.store.envelope import seal as seal_payload
from cloudray.store.procedures import Procedure
from cloudray.values.outcomes import load
from tests.unit.protocol.builders import (
    BATCH_ID,
    batch_of,
    done,
    name_of,
    started,
    write,
)
from tests.unit.protocol.interleaving import Cast, all_orders
from tests.unit.protocol.test_jobs import JOB, LISTED, finish, others, store_job, submit

ENDING = Ending(86_400.0, endings.DELETED, "nightly")
ROOT = LISTED.root


@pytest.fixture
def store() -> Reliable:
    return Reliable(MemoryStore())


def keys_of(store: Reliable) -> list[str]:
    return [entry.key for entry in store.list("")]


def read(store: Reliable, index: int = 0, batch: bytes = BATCH_ID) -> ObjectLostError:
    """What somebody finds who asks for a value now, and knows nothing yet."""
    word = drive(store, Results().follow(ids.object_id(batch, index)))
    assert word is not None
    assert word.verb is Verb.FAILED
    lost = load(word.values[0])
    assert isinstance(lost, ObjectLostError)
    return lost


def fill(store: Reliable) -> None:
    """A job with a batch that is over, one that runs, and one of everything else."""
    store_job(store, JOB, name="nightly")
    over, runs = batch_of(2), batch_of(2, number=1)
    submit(store, over, runs)
    finish(store, over, Entry(1, (started(0),)), Entry(1, (done(0), done(1))))
    store.put(layout.claim_of(name_of(runs).stem, 1), seal(Claim("agent")))
    write(store, runs.id, Entry(1, (started(0),)))
    for key in (
        layout.blob(ROOT + bytes(4), "f" * 64),
        layout.log(7, JOB, "agent", 0),
        layout.put_object(ids.object_id(ROOT + bytes(4), 0xFFFF)),
        layout.result_object(ids.object_id(over.id, 0), "nonce"),
    ):
        store.put(key, seal_payload(Kind.OBJECT, b"bytes"))


def test_only_marks_are_left_of_a_job_that_was_ended(store: Reliable) -> None:
    fill(store)
    drive(store, endings.end(LISTED, ENDING))
    assert keys_of(store) == sorted(
        [
            layout.ending(ROOT),
            journals.key(batch_of(1).id, 0),
            journals.key(batch_of(1, number=1).id, 0),
        ]
    )


def test_whoever_asks_later_is_told_when_and_why(store: Reliable) -> None:
    fill(store)
    drive(store, endings.end(LISTED, ENDING))
    for batch in (batch_of(2), batch_of(2, number=1)):
        lost = read(store, 1, batch.id)
        assert lost.reason == "its job was deleted"
        assert "1970-01-02 00:00 UTC" in str(lost)


def test_a_batch_that_nobody_ever_touched_says_so_too(store: Reliable) -> None:
    store_job(store, JOB)
    submit(store, batch_of(3))
    drive(store, endings.end(LISTED, ENDING))
    assert read(store, 2).reason == "its job was deleted"


def test_who_has_read_that_it_has_ended_learns_it_of_every_task(store: Reliable) -> None:
    fill(store)
    drive(store, endings.end(LISTED, ENDING))
    journal = Journal(BATCH_ID, 2)
    assert drive(store, journals.catch_up(journal)) == [0, 1]
    assert journal.complete
    assert journal.is_over


def test_where_the_size_is_not_known_the_tasks_that_are_waited_for_are_over(
    store: Reliable,
) -> None:
    fill(store)
    drive(store, endings.end(LISTED, ENDING))
    journal = Journal(BATCH_ID)
    journal.expect(1)
    assert drive(store, journals.catch_up(journal)) == [1]
    assert journal.complete
    journal.expect(7)
    assert journal.complete


def test_nothing_is_said_any_more_in_a_journal_whose_job_has_ended(store: Reliable) -> None:
    fill(store)
    drive(store, endings.end(LISTED, ENDING))
    before = keys_of(store)
    journal = Journal(BATCH_ID, 2)
    drive(store, journals.append(journal, [done(0)], claim=2))
    assert keys_of(store) == before
    assert journal.decided[0].verb is Verb.FAILED


def test_a_batch_of_a_job_that_has_ended_is_not_run(store: Reliable) -> None:
    store_job(store, JOB)
    batch = batch_of(1)
    submit(store, batch)
    drive(store, endings.end(LISTED, ENDING))
    submit(store, batch)  # its driver was slow
    outcome = drive(store, claims.claim(name_of(batch), 1, "agent"))
    assert isinstance(outcome, claims.Finished)


def test_other_jobs_stay_as_they_are(store: Reliable) -> None:
    others(store, 2, b"aaaaaaaaaa")
    store_job(store, b"aaaaaaaaaa")
    before = keys_of(store)
    fill(store)
    drive(store, endings.end(LISTED, ENDING))
    assert set(before) <= set(keys_of(store))


def test_the_first_ending_stands(store: Reliable) -> None:
    fill(store)
    drive(store, endings.end(LISTED, ENDING))
    again = Ending(2 * 86_400.0, endings.over_after(7))
    ending, swept = drive(store, endings.end(LISTED, again))
    assert ending == ENDING
    assert not swept
    assert read(store).reason == endings.DELETED


def test_ending_a_job_again_goes_on_where_it_was_cut_short() -> None:
    complete = Reliable(MemoryStore())
    fill(complete)
    drive(complete, endings.end(LISTED, ENDING))
    steps = 0
    while True:
        store = Reliable(MemoryStore())
        fill(store)
        if _cut_short(store, endings.end(LISTED, ENDING), steps):
            break
        drive(store, endings.end(LISTED, ENDING))
        assert keys_of(store) == keys_of(complete), steps
        steps += 1
    assert steps > 10


def _cut_short(store: Reliable, procedure: Procedure[object], steps: int) -> bool:
    """Do so many steps of a procedure; whether that was all of it."""
    answer: Any = None
    for _ in range(steps):
        try:
            op: Any = procedure.send(answer)
            answer = store.perform(op)
        except StopIteration:
            return True
    procedure.close()
    return False


def test_a_dry_run_changes_nothing(store: Reliable) -> None:
    fill(store)
    before = keys_of(store)
    swept = drive(store, endings.sweep(LISTED, ENDING, dry_run=True))
    assert keys_of(store) == before
    # Two journals get a mark; the rest: a queue entry, a claim, entry 1, and five others.
    assert (swept.journals, swept.objects) == (2, 8)


def test_the_marks_go_in_the_end(store: Reliable) -> None:
    fill(store)
    drive(store, endings.end(LISTED, ENDING))
    drive(store, endings.forget(LISTED))
    assert keys_of(store) == []


# -- beside others -------------------------------------------------------------------------------


def _holder(known: int) -> Procedure[Journal]:
    """An agent that has read so many entries, and now says how its task ended."""
    batch = batch_of(1)
    journal = Journal(batch.id, 1)
    for _ in range(known):
        journal.apply(Entry(1, (started(0),)))
    yield from journals.append(journal, [done(0)], claim=1)
    if journal.complete:
        yield from claims.retire(name_of(batch))
    return journal


@pytest.mark.parametrize("known", [0, 1])
def test_an_agent_that_was_asleep_brings_nothing_back(known: int) -> None:
    def make() -> tuple[Reliable, Cast]:
        store = Reliable(MemoryStore())
        store_job(store, JOB)
        submit(store, batch_of(1))
        write(store, BATCH_ID, *[Entry(1, (started(0),))] * known)
        return store, {"agent": _holder(known), "end": endings.end(LISTED, ENDING)}

    orders = 0
    for store, order in all_orders(make):
        orders += 1
        # Whatever came first: who asks from now on is told the same.
        assert read(store).reason == endings.DELETED, order
        drive(store, endings.sweep(LISTED, ENDING))
        assert keys_of(store) == [layout.ending(ROOT), journals.key(BATCH_ID, 0)], order
    assert orders > 20


def test_whoever_claims_meanwhile_learns_at_the_first_word_that_it_is_over() -> None:
    def claim() -> Procedure[None]:
        outcome = yield from claims.claim(name_of(batch_of(1)), 1, "agent")
        if isinstance(outcome, claims.Won):
            yield from journals.append(outcome.journal, [done(0)], claim=1)
        elif isinstance(outcome, claims.Early):
            return

    def make() -> tuple[Reliable, Cast]:
        store = Reliable(MemoryStore())
        store_job(store, JOB)
        submit(store, batch_of(1))
        return store, {"claim": claim(), "end": endings.end(LISTED, ENDING)}

    for store, order in all_orders(make):
        assert read(store).reason == endings.DELETED, order
        assert drive(store, jobs.queued(JOB)) == {}, order
        drive(store, endings.sweep(LISTED, ENDING))
        left = [key for key in keys_of(store) if not key.startswith(layout.QUEUE)]
        assert left == [layout.ending(ROOT), journals.key(BATCH_ID, 0)], order


def test_two_may_end_a_job_at_once() -> None:
    def make() -> tuple[Reliable, Cast]:
        store = Reliable(MemoryStore())
        store_job(store, JOB)
        submit(store, batch_of(1))
        listed = Listed(7, JOB)
        return store, {
            "first": endings.mark(listed, ENDING),
            "second": endings.mark(listed, Ending(1.0, "its time was up")),
        }

    for store, _ in all_orders(make):
        found = drive(store, jobs.read_job(ROOT + bytes(4)))
        assert found.ending is not None
        _, swept = drive(store, endings.end(LISTED, Ending(2.0, "never said")))
        assert swept
        assert read(store).reason == found.ending.reason
