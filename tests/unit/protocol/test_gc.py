"""What is garbage, and what is not."""

from __future__ import annotations

import pytest

from cloudray import ids
from cloudray.protocol import claims, endings, gc, jobs
from cloudray.protocol import journal as journals
from cloudray.protocol.gc import Found
from cloudray.protocol.leases import IDLE_LEASES
from cloudray.protocol.records import Claim, Cluster, Ending, Entry, Heartbeat, Verb, Word, seal
from cloudray.store import Kind, MemoryStore, Reliable, drive, layout
from cloudray.store.envelope import seal as seal_payload
from cloudray.store.probe import FOLDER as PROBES
from cloudray.values import codec
from tests.unit.protocol.builders import BATCH_ID, batch_of, done, name_of, write
from tests.unit.protocol.test_jobs import JOB, LISTED, finish, store_job, submit

SETTINGS = Cluster(10.0, 30.0, 1.0, 60.0)
DAY_S = endings.DAY_S
#: When everything in these tests begins.
BEGAN_S = 1_000_000.0


class Bucket(Reliable):
    """A store whose clock the test moves on."""

    def __init__(self) -> None:
        memory = MemoryStore()
        super().__init__(memory)
        self.now_s = BEGAN_S
        memory.clock = lambda: self.now_s

    def collect(self, *, dry_run: bool = False, settings: Cluster = SETTINGS) -> list[Found]:
        # What this machine's clock says is of no account.
        collecting = gc.collect(settings, otherwise_s=0.0, dry_run=dry_run)
        return drive(self, collecting)

    def keys(self, prefix: str = "") -> list[str]:
        return [entry.key for entry in self.list(prefix)]


@pytest.fixture
def store() -> Bucket:
    return Bucket()


def run_job(store: Bucket, days: int = 7) -> None:
    store_job(store, JOB, days=days)
    submit(store, batch_of(1))
    finish(store, batch_of(1), Entry(1, (done(0),)))


# -- jobs ----------------------------------------------------------------------------------------


def test_a_job_stays_for_its_retention(store: Bucket) -> None:
    run_job(store)
    before = store.keys()
    store.now_s += 7 * DAY_S
    assert store.collect() == []
    assert store.keys() == before


def test_then_it_ends_and_says_so(store: Bucket) -> None:
    run_job(store)
    store.now_s += 7 * DAY_S + 1
    (found,) = store.collect()
    assert found.what == "job that has ended"
    assert found.of == f"job {JOB.hex()}"
    listed = drive(store, jobs.find_job(JOB))
    assert listed is not None
    assert listed.ending == Ending(store.now_s, "its job's retention of 7 days was over")
    assert store.keys() == sorted([layout.ending(LISTED.root), journals.key(BATCH_ID, 0)])


def test_a_job_that_ended_is_nothing_new_the_next_time(store: Bucket) -> None:
    run_job(store)
    store.now_s += 8 * DAY_S
    assert store.collect()
    assert store.collect() == []


def test_what_a_sleeper_wrote_for_a_job_that_ended_goes(store: Bucket) -> None:
    run_job(store)
    store.now_s += 8 * DAY_S
    store.collect()
    before = store.keys()
    store.put(layout.result_object(ids.object_id(BATCH_ID, 0), "late"), b"value")
    store.put(journals.key(BATCH_ID, 5), seal(Entry(1, (done(0),))))
    submit(store, batch_of(1))
    (found,) = store.collect()
    assert found.swept.objects == 3
    assert store.keys() == before


def test_what_a_sleeper_put_in_the_place_of_a_mark_goes(store: Bucket) -> None:
    store_job(store, JOB)
    store.now_s += 8 * DAY_S
    store.collect()
    # Of a batch that nobody had heard of.
    write(store, BATCH_ID, Entry(1, (done(0),)))
    store.collect()
    body = store.get(journals.key(BATCH_ID, 0))
    assert body is not None
    assert endings.is_mark(body, "entry")


def test_marks_go_when_nobody_can_be_asleep_any_more(store: Bucket) -> None:
    run_job(store)
    store.now_s += 8 * DAY_S
    store.collect()
    store.now_s += 8 * DAY_S
    assert store.collect() == []
    store.now_s += 1
    assert [found.what for found in store.collect()] == ["mark of a job that has ended long ago"]
    assert store.keys() == []


def test_what_is_left_of_a_deleted_job_goes(store: Bucket) -> None:
    run_job(store)
    ended = Ending(store.now_s, endings.DELETED)
    drive(store, endings.mark(LISTED, ended))
    (found,) = store.collect()
    assert found.what == "job that was deleted"
    assert store.keys() == sorted([layout.ending(LISTED.root), journals.key(BATCH_ID, 0)])


def test_what_runs_of_a_job_whose_time_is_up_is_stopped(store: Bucket) -> None:
    store_job(store, JOB)
    submit(store, batch_of(2))
    store.now_s += 7 * DAY_S + 1
    store.collect()
    assert drive(store, jobs.queued(JOB)) == {}


def test_pieces_of_a_job_without_a_record_go_when_its_time_is_up(store: Bucket) -> None:
    write(store, BATCH_ID, Entry(1, (done(0),)))
    store.now_s += 7 * DAY_S
    assert store.collect() == []
    store.now_s += 1
    assert store.collect()


def test_a_dry_run_only_tells(store: Bucket) -> None:
    run_job(store)
    store.now_s += 8 * DAY_S
    before = store.keys()
    told = store.collect(dry_run=True)
    assert store.keys() == before
    done_ = store.collect()
    assert [(one.what, one.of) for one in told] == [(one.what, one.of) for one in done_]


# -- results of no use ---------------------------------------------------------------------------


def stored_result(store: Bucket, nonce: str, index: int = 0) -> Word:
    """A large result of an attempt; returns the word that would name it."""
    key = layout.result_object(ids.object_id(BATCH_ID, index), nonce)
    store.put(key, seal_payload(Kind.OBJECT, b"value"))
    return Word(index, Verb.DONE, (codec.stored(key, 5),))


def test_large_results_of_attempts_that_lost_go(store: Bucket) -> None:
    store_job(store, JOB)
    submit(store, batch_of(1))
    won, lost = stored_result(store, "aa"), stored_result(store, "bb")
    finish(store, batch_of(1), Entry(1, (won,)), Entry(2, (lost,)))
    (found,) = store.collect()
    assert found.what == "result of no use"
    assert store.keys(layout.objects(BATCH_ID)) == [codec.stored_key(won.values[0])]


def test_large_results_of_a_batch_that_may_still_run_stay(store: Bucket) -> None:
    store_job(store, JOB)
    submit(store, batch_of(2))
    written = [stored_result(store, "aa"), stored_result(store, "bb")]
    write(store, BATCH_ID, Entry(1, (written[0],)))
    assert store.collect() == []
    assert len(store.keys(layout.objects(BATCH_ID))) == 2


def test_large_results_of_a_batch_that_came_by_a_message_stay(store: Bucket) -> None:
    # It runs before its put has arrived: there is only a claim, and what it has written.
    store_job(store, JOB)
    leave_claims(store, 1)
    written = [stored_result(store, "aa"), stored_result(store, "bb")]
    write(store, BATCH_ID, Entry(1, (written[0],)))
    assert store.collect() == []
    assert len(store.keys(layout.objects(BATCH_ID))) == 2


def test_values_that_were_put_stay(store: Bucket) -> None:
    run_job(store)
    key = layout.put_object(ids.object_id(BATCH_ID, ids.PUT_INDEX))
    store.put(key, b"value")
    assert store.collect() == []
    assert store.get(key) == b"value"


# -- the queue -----------------------------------------------------------------------------------


def leave_claims(store: Bucket, *numbers: int) -> str:
    stem = name_of(batch_of(1)).stem
    for number in numbers:
        store.put(layout.claim_of(stem, number), seal(Claim("dead")))
    return stem


def test_claims_of_a_batch_that_is_over_go_after_a_while(store: Bucket) -> None:
    run_job(store)
    leave_claims(store, 1, 2)
    store.now_s += 10 * SETTINGS.lease_s - 1
    assert store.collect() == []
    store.now_s += 1
    (found,) = store.collect()
    assert (found.what, found.swept.objects) == ("claim without its batch", 2)
    assert store.keys(layout.QUEUE) == []


def test_claims_stay_whose_batch_may_still_come(store: Bucket) -> None:
    store_job(store, JOB)
    leave_claims(store, 1)
    store.now_s += DAY_S
    assert store.collect() == []


def test_where_journals_are_freed_claims_without_a_batch_go(store: Bucket) -> None:
    store_job(store, JOB)
    leave_claims(store, 1)
    store.now_s += DAY_S
    ephemeral = Cluster(0.5, 2.0, 0.1, 2.0, ephemeral=True)
    assert [found.what for found in store.collect(settings=ephemeral)] == [
        "claim without its batch"
    ]


def test_a_batch_of_a_job_of_which_nothing_is_left_goes_after_a_day(store: Bucket) -> None:
    submit(store, batch_of(1))
    store.now_s += DAY_S
    assert store.collect() == []
    store.now_s += 1
    assert [found.what for found in store.collect()] == ["batch of no job"]
    assert store.keys() == []


# -- other leftovers -----------------------------------------------------------------------------


def test_heartbeats_of_the_dead_go(store: Bucket) -> None:
    beat = Heartbeat("dead", 1, "host", 1, "", {}, {})
    store.put(layout.agent("dead"), seal(beat))
    store.now_s += IDLE_LEASES * SETTINGS.lease_s
    store.put(layout.agent("idle"), seal(beat))
    assert store.collect() == []
    store.now_s += 1
    assert [(found.what, found.of) for found in store.collect()] == [
        ("heartbeat of a dead agent", "dead")
    ]
    assert store.keys(layout.AGENTS) == [layout.agent("idle")]


def test_probes_that_were_left_go(store: Bucket) -> None:
    store.put(PROBES + "left.raced", b"")
    store.now_s += 3601
    assert [found.what for found in store.collect()] == ["probe"]


def test_nothing_is_left_of_looking_what_time_it_is(store: Bucket) -> None:
    assert store.collect() == []
    assert store.keys() == []


def test_claims_are_swept_beside_an_agent_that_takes_the_batch(store: Bucket) -> None:
    """A batch whose claims go while it is in the queue would be claimed twice under one number."""
    store_job(store, JOB)
    submit(store, batch_of(1))
    leave_claims(store, 1)
    store.now_s += DAY_S
    store.collect()
    outcome = drive(store, claims.claim(name_of(batch_of(1)), 1, "agent"))
    assert isinstance(outcome, claims.Lost)


# -- what cannot be read -------------------------------------------------------------------------


def test_a_job_whose_mark_is_damaged_is_left_alone_and_the_others_end(
    store: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    run_job(store)
    root = store_job(store, b"aaaaaaaaaa")
    damaged = layout.ending(root)
    store.put(damaged, b"x" * 100)
    store.now_s += 7 * DAY_S + 1
    (found,) = store.collect()
    assert found.of == f"job {JOB.hex()}"
    assert store.get(layout.meta(root)) is not None
    assert damaged in caplog.text


def test_large_results_stay_of_a_batch_whose_journal_is_damaged(store: Bucket) -> None:
    run_job(store)
    stored_result(store, "loser")
    store.put(journals.key(BATCH_ID, 0), b"x" * 100)
    assert store.collect() == []
    assert store.keys(layout.objects(LISTED.root)) != []


def test_claims_stay_of_a_batch_whose_journal_is_damaged_and_others_go(store: Bucket) -> None:
    run_job(store)
    leave_claims(store, 1)
    damaged = name_of(batch_of(1, number=9))
    store.put(layout.claim_of(damaged.stem, 1), seal(Claim("gone")))
    store.put(journals.key(damaged.batch, 0), b"x" * 100)
    store.now_s += 10 * SETTINGS.lease_s
    (found,) = store.collect()
    assert found.of == f"batch {BATCH_ID.hex()}"
    assert store.keys(layout.QUEUE) == [layout.claim_of(damaged.stem, 1)]


def test_a_damaged_journal_keeps_no_job_from_ending(store: Bucket) -> None:
    run_job(store)
    submit(store, batch_of(1, number=9))
    store.put(journals.key(batch_of(1, number=9).id, 0), b"x" * 100)
    store.now_s += 7 * DAY_S + 1
    (found,) = store.collect()
    assert found.what == "job that has ended"
    assert store.keys(layout.QUEUE) == []
