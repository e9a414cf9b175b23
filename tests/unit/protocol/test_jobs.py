"""Reading jobs whose drivers may be gone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cloudray import ids
from cloudray.protocol import claims, jobs
from cloudray.protocol import journal as journals
from cloudray.protocol.jobs import Listed
from cloudray.protocol.progress import Counts, Progress
from cloudray.protocol.records import Batch, Claim, Ending, Entry, Job, Parent, Shape, Task, seal
from cloudray.store import (
    Counting,
    Ledger,
    MemoryStore,
    RecordError,
    Reliable,
    Store,
    drive,
    layout,
)
from cloudray.store.procedures import run
from tests.unit.protocol.builders import (
    PREFIX,
    batch_of,
    cancelled,
    done,
    failed,
    moved,
    name_of,
    started,
    write,
)

JOB = ids.job_of(PREFIX)
SUBMITTER = ids.submitter_of(PREFIX)
LISTED = Listed(7, JOB)
#: Jobs before and after ours in every listing.
EARLIER, LATER = b"aaaaaaaaaa", b"zzzzzzzzzz"


@pytest.fixture
def store() -> Reliable:
    return Reliable(MemoryStore())


def record_of(job: bytes, name: str = "") -> Job:
    return Job(job, "3.11.7", "host", 42, 1.5, (), "/", name=name, submitter=SUBMITTER)


def store_job(store: Store, job: bytes, *, days: int = 7, name: str = "") -> bytes:
    """Write a job's record; returns an id under it."""
    root = ids.batch_prefix(days, job, SUBMITTER) + bytes(4)
    store.put(layout.meta(root), seal(record_of(job, name)))
    return root


def submit(store: Store, *batches: Batch) -> None:
    for batch in batches:
        drive(store, claims.submit(name_of(batch), batch))


def finish(store: Store, batch: Batch, *entries: Entry) -> None:
    """Let a batch be over: its journal is complete, and it has left the queue."""
    write(store, batch.id, *entries)
    drive(store, claims.retire(name_of(batch)))


def others(store: Store, count: int, job: bytes) -> None:
    """Batches of another job in the queue."""
    prefix = ids.batch_prefix(7, job, SUBMITTER)
    for number in range(count):
        batch = msgspec.structs.replace(batch_of(1), id=ids.batch_id(prefix, number))
        submit(store, batch)


def progress_of(store: Store) -> Progress:
    progress = Progress(LISTED, SUBMITTER)
    drive(store, progress.refresh())
    return progress


# -- which there are -----------------------------------------------------------------------------


def test_jobs_are_listed_oldest_first_whatever_their_retention(store: Reliable) -> None:
    store_job(store, LATER, days=1, name="later")
    store_job(store, JOB, days=30, name="ours")
    store_job(store, EARLIER, days=7)
    listed = drive(store, jobs.list_jobs())
    assert [(one.id, one.days, one.name) for one in listed] == [
        (EARLIER, 7, ""),
        (JOB, 30, "ours"),
        (LATER, 1, "later"),
    ]


def test_a_job_whose_record_cannot_be_read_hides_no_other(
    store: Reliable, caplog: pytest.LogCaptureFixture
) -> None:
    for job in (EARLIER, JOB, LATER):
        store_job(store, job)
    damaged = layout.meta(LISTED.root)
    store.put(damaged, b"x" * 100)
    listed = drive(store, jobs.list_jobs())
    assert [(one.id, one.job is None) for one in listed] == [
        (EARLIER, False),
        (JOB, True),
        (LATER, False),
    ]
    assert damaged in caplog.text


def test_whoever_asks_for_that_job_hears_why(store: Reliable) -> None:
    store.put(layout.meta(store_job(store, JOB)), b"x" * 100)
    with pytest.raises(RecordError, match="meta"):
        drive(store, jobs.find_job(JOB))


def test_a_listing_says_when_jobs_began_by_the_clock_of_the_store() -> None:
    store = MemoryStore()
    store.clock = lambda: 1234.0
    store_job(store, JOB)
    assert [one.started_s for one in drive(store, jobs.list_jobs())] == [1234]


def test_the_many_keys_of_large_jobs_are_skipped() -> None:
    ledger = Ledger()
    store = Counting(MemoryStore(), ledger)
    for job in (EARLIER, JOB, LATER):
        root = store_job(store, job)
        for number in range(5_000):
            store.put(journals.key(root, number), b"")
    before = ledger.as_dict()
    assert len(drive(store, jobs.list_jobs())) == 3
    assert ledger.subtract(before) == Ledger(get=6, list=4)


def test_many_small_jobs_share_a_page() -> None:
    ledger = Ledger()
    store = Counting(MemoryStore(), ledger)
    for number in range(100):
        store_job(store, number.to_bytes(10, "big"))
    before = ledger.as_dict()
    assert len(drive(store, jobs.list_jobs())) == 100
    assert ledger.subtract(before).as_dict()["list"] == 1


@pytest.mark.parametrize("days", [1, 7, 30])
def test_a_job_is_found_by_its_id_whatever_its_retention(store: Reliable, days: int) -> None:
    store_job(store, JOB, days=days)
    found = drive(store, jobs.find_job(JOB))
    assert found is not None
    assert (found.days, found.job) == (days, record_of(JOB))


def test_a_job_that_has_ended_is_found_by_what_says_so(store: Reliable) -> None:
    root = store_job(store, JOB)
    store.put(layout.ending(root), seal(Ending(5.0, "it was deleted", "nightly")))
    store.delete([layout.meta(root)])
    found = drive(store, jobs.find_job(JOB))
    assert found is not None
    assert found.ending == Ending(5.0, "it was deleted", "nightly")
    assert found.name == "nightly"


def test_a_job_that_never_was_is_not_found(store: Reliable) -> None:
    store_job(store, EARLIER)
    assert drive(store, jobs.find_job(JOB)) is None


# -- the queue -----------------------------------------------------------------------------------


def test_the_queue_shows_a_jobs_batches_with_their_last_claims(store: Reliable) -> None:
    first, second = batch_of(2), batch_of(3, number=1)
    submit(store, first, second)
    others(store, 3, EARLIER)
    for number in (1, 2):
        store.put(layout.claim_of(name_of(second).stem, number), seal(Claim("agent")))
    assert drive(store, jobs.queued(JOB)) == {name_of(first): 0, name_of(second): 2}


def test_claims_without_their_batch_are_nothing_in_the_queue(store: Reliable) -> None:
    store.put(layout.claim_of(name_of(batch_of(1)).stem, 1), seal(Claim("agent")))
    assert drive(store, jobs.queued(JOB)) == {}


def test_other_jobs_are_skipped_in_a_long_queue() -> None:
    ledger = Ledger()
    store = Counting(MemoryStore(), ledger)
    others(store, 3_000, EARLIER)
    others(store, 3_000, LATER)
    mine = batch_of(2)
    submit(store, mine)
    before = ledger.as_dict()
    assert drive(store, jobs.queued(JOB)) == {name_of(mine): 0}
    # A page of earlier ones, one that begins with ours, and one behind the folder.
    assert ledger.subtract(before) == Ledger(list=3)


def test_all_folders_of_a_long_queue_are_looked_through(store: Reliable) -> None:
    expected = set()
    for folder, number in (("py311-cpu1-m0", 0), ("py311-cpu2-m0", 1), ("py312-cpu1-m0", 2)):
        for job, count in ((EARLIER, 1_200), (JOB, 3), (LATER, 1_200)):
            prefix = ids.batch_prefix(7, job, SUBMITTER)
            for at in range(count):
                batch = ids.batch_id(prefix, 10_000 * number + at)
                name = layout.QueueName(folder, 5, batch, 1, 0)
                store.put(layout.claim_of(name.stem, 0), b"")
                if job == JOB:
                    expected.add(name)
    assert drive(store, jobs.queued(JOB)).keys() == expected


# -- how far the driver's tasks are --------------------------------------------------------------


def test_a_job_that_submitted_nothing_is_over(store: Reliable) -> None:
    progress = progress_of(store)
    assert progress.is_over
    assert progress.counts() == Counts()


def test_tasks_nobody_has_touched_are_pending(store: Reliable) -> None:
    submit(store, batch_of(3))
    progress = progress_of(store)
    assert not progress.is_over
    assert progress.counts() == Counts(pending=3)


def test_every_state_of_a_task_is_counted(store: Reliable) -> None:
    batch = batch_of(6)
    submit(store, batch)
    write(store, batch.id, Entry(1, (done(0), failed(1), cancelled(2), started(3), started(4))))
    assert progress_of(store).counts() == Counts(1, 1, 1, 2, 1)


def test_tasks_of_batches_that_have_left_the_queue_are_counted(store: Reliable) -> None:
    batch = batch_of(3)
    submit(store, batch)
    finish(store, batch, Entry(1, (done(2),)), Entry(1, (done(0), done(1))))
    progress = progress_of(store)
    assert progress.is_over
    assert progress.counts() == Counts(done=3)


def test_tasks_that_were_moved_are_counted_where_they_went(store: Reliable) -> None:
    batch = batch_of(2)
    away = ids.batch_id(ids.batch_prefix(7, JOB, b"some agent"), 0)
    submit(store, batch)
    write(store, batch.id, Entry(1, (done(0), moved(1, away, 0))))
    progress = progress_of(store)
    assert progress.counts() == Counts(done=1, pending=1)
    write(store, away, Entry(1, (failed(0),)))
    drive(store, progress.refresh())
    assert progress.is_over
    assert progress.counts() == Counts(done=1, failed=1)


def test_what_tasks_submitted_is_counted_by_its_batches(store: Reliable) -> None:
    parent = batch_of(1)
    nested = Batch(
        ids.batch_id(ids.batch_prefix(7, JOB, b"an attempt"), 0),
        parent.shapes,
        (Task(0), Task(0)),
        1,
        Parent(parent.id, 0, 1, 0),
    )
    submit(store, parent, nested)
    assert progress_of(store).counts() == Counts(pending=1, nested=1)


def test_a_batch_that_came_during_a_look_is_not_taken_for_over(store: Reliable) -> None:
    batch = batch_of(3)
    progress = Progress(LISTED, SUBMITTER)
    looking = progress.refresh()
    op: Any = next(looking)
    answer = store.perform(op)  # the queue, when it was empty
    submit(store, batch)
    write(store, batch.id, Entry(1, (done(0),)))
    run(store.perform, looking, answer)
    assert not progress.is_over
    assert progress.counts() == Counts(done=1, pending=2)


def test_a_later_look_reads_only_what_is_new() -> None:
    ledger = Ledger()
    store = Counting(MemoryStore(), ledger)
    first, second = batch_of(1), batch_of(1, number=1)
    submit(store, first, second)
    finish(store, first, Entry(1, (done(0),)))
    progress = progress_of(store)
    before = ledger.as_dict()
    finish(store, second, Entry(1, (done(0),)))
    written = ledger.as_dict()
    drive(store, progress.refresh())
    assert progress.is_over
    assert written["get"] == before["get"]
    assert ledger.subtract(written) == Ledger(get=1, list=2)


# -- refs ----------------------------------------------------------------------------------------


def test_refs_come_in_the_order_of_the_batches(store: Reliable) -> None:
    first, second = batch_of(2), batch_of(1, number=1)
    submit(store, first, second)
    finish(store, second, Entry(1, (done(0),)))
    refs = drive(store, progress_of(store).refs())
    assert refs == [
        ids.object_id(first.id, 0),
        ids.object_id(first.id, 1),
        ids.object_id(second.id, 0),
    ]


def test_a_task_has_as_many_refs_as_it_will_return(store: Reliable) -> None:
    shape = Shape("f" * 64, "two", 2, {"CPU": 10_000})
    batch = Batch(ids.batch_id(PREFIX, 0), (shape,), (Task(0),))
    submit(store, batch)
    refs = drive(store, progress_of(store).refs())
    assert refs == [ids.object_id(batch.id, 0, 0), ids.object_id(batch.id, 0, 1)]


def test_a_task_has_as_many_refs_as_it_returned(store: Reliable) -> None:
    batch = batch_of(3)
    submit(store, batch)
    nothing = msgspec.structs.replace(done(0), values=())
    two = msgspec.structs.replace(done(1), values=(b"a", b"b"))
    finish(store, batch, Entry(1, (nothing, two, failed(2))))
    refs = drive(store, progress_of(store).refs())
    assert refs == [
        ids.object_id(batch.id, 1, 0),
        ids.object_id(batch.id, 1, 1),
        ids.object_id(batch.id, 2, 0),
    ]


# -- cancelling ----------------------------------------------------------------------------------


def test_cancelling_a_job_leaves_what_is_decided(store: Reliable) -> None:
    batch = batch_of(3)
    submit(store, batch)
    write(store, batch.id, Entry(1, (done(0),)))
    assert drive(store, jobs.cancel_all(JOB, force=False, retire=claims.retire)) == 2
    assert progress_of(store).counts() == Counts(done=1, cancelled=2)


def test_what_is_cancelled_leaves_the_queue(store: Reliable) -> None:
    submit(store, batch_of(3), batch_of(1, number=1))
    drive(store, jobs.cancel_all(JOB, force=False, retire=claims.retire))
    assert drive(store, jobs.queued(JOB)) == {}


def test_a_damaged_journal_keeps_no_other_batch_from_being_cancelled(store: Reliable) -> None:
    submit(store, batch_of(1, number=0), batch_of(1, number=1))
    store.put(journals.key(batch_of(1, number=0).id, 0), b"x" * 100)
    cancelling = jobs.cancel_all(JOB, force=False, retire=claims.retire)
    assert drive(store, cancelling) == 1


def test_other_jobs_are_not_cancelled(store: Reliable) -> None:
    others(store, 2, EARLIER)
    submit(store, batch_of(1))
    drive(store, jobs.cancel_all(JOB, force=False, retire=claims.retire))
    assert len(drive(store, jobs.queued(EARLIER))) == 2


def test_what_is_submitted_meanwhile_is_cancelled_too(store: Reliable) -> None:
    submit(store, batch_of(1))
    cancelling = jobs.cancel_all(JOB, force=False, retire=claims.retire)
    op: Any = next(cancelling)
    answer = store.perform(op)
    submit(store, batch_of(2, number=1))
    assert run(store.perform, cancelling, answer) == 3


# -- why a value is not there --------------------------------------------------------------------


def test_a_value_of_a_job_that_has_ended_is_lost_since_then(store: Reliable) -> None:
    root = store_job(store, JOB)
    store.put(layout.ending(root), seal(Ending(86_400.0, "its job was deleted")))
    lost = drive(store, jobs.explain_loss(ids.object_id(root, 0), "it is not in the store"))
    assert "its job was deleted on 1970-01-02 00:00 UTC" in str(lost)


def test_a_value_of_a_job_that_lasts_is_lost_for_its_own_reason(store: Reliable) -> None:
    root = store_job(store, JOB)
    lost = drive(store, jobs.explain_loss(ids.object_id(root, 0), "it is not in the store"))
    assert lost.reason == "it is not in the store"


def test_a_value_of_no_job_is_of_another_cluster(store: Reliable) -> None:
    lost = drive(store, jobs.explain_loss(ids.object_id(PREFIX + bytes(4), 0), "it is gone"))
    assert "no such job" in lost.reason
