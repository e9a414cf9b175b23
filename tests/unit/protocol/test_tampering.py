"""What somebody without the cluster's key has written is void, and stops nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloudray.keyring import ClusterKey, new_key
from cloudray.protocol import claims
from cloudray.protocol import journal as journals
from cloudray.protocol.claims import Lost, Refused, Won
from cloudray.protocol.failures import Crashed, next_step
from cloudray.protocol.joining import WrongKeyError, join, look
from cloudray.protocol.journal import MAX_VOID, Journal
from cloudray.protocol.nodes import heartbeats
from cloudray.protocol.records import (
    Batch,
    Claim,
    Cluster,
    Entry,
    Heartbeat,
    Job,
    seal,
    unseal,
)
from cloudray.store import (
    Kind,
    MemoryStore,
    RecordError,
    Reliable,
    Signed,
    StoreError,
    TamperedError,
    drive,
    envelope,
    layout,
)
from cloudray.store.layout import claim_of
from tests.unit.protocol.builders import BATCH_ID, OTHER_ID, batch_of, done, name_of, write

KEY = new_key("a test")
BATCH = batch_of(2)
NAME = name_of(BATCH)
FORGED = seal(Entry(1, (done(0, b"forged"), done(1, b"forged"))))


@pytest.fixture
def raw() -> MemoryStore:
    """What somebody who may write to the bucket sees."""
    return MemoryStore()


@pytest.fixture
def store(raw: MemoryStore) -> Reliable:
    """What those see who have the key."""
    return Reliable(Signed(raw, KEY))


def entry_key(number: int, batch: bytes = BATCH_ID) -> str:
    return journals.key(batch, number)


# -- journals ----------------------------------------------------------------------------------


def test_a_forged_entry_decides_nothing(store: Reliable, raw: MemoryStore) -> None:
    raw.put(entry_key(0), FORGED)
    journal = Journal(BATCH_ID, 2)
    assert drive(store, journals.catch_up(journal)) == []
    assert (journal.next, journal.decided, journal.void) == (1, {}, 1)


@pytest.mark.parametrize("forged", [[0], [1], [0, 1], [2], [0, 2, 3], [1, 4]])
def test_who_appends_steps_over_forged_entries(
    store: Reliable, raw: MemoryStore, forged: list[int]
) -> None:
    for number in forged:
        raw.put(entry_key(number), FORGED)
    writer = Journal(BATCH_ID, 2)
    drive(store, journals.append(writer, [done(0)], claim=1))
    drive(store, journals.append(writer, [done(1)], claim=1))
    assert writer.complete
    reader = Journal(BATCH_ID, 2)
    assert sorted(drive(store, journals.catch_up(reader))) == [0, 1]
    assert {word.values for word in reader.decided.values()} == {(b"value",)}


@pytest.mark.parametrize("known", [0, 5])
def test_a_forged_entry_among_others_is_stepped_over(
    store: Reliable, raw: MemoryStore, known: int
) -> None:
    write(store, BATCH_ID, Entry(1, (done(0),)), Entry(1, (done(1),)), Entry(1, ()), Entry(1, ()))
    store.put(entry_key(4), seal(Entry(1, (done(2),))))
    raw.put(entry_key(2), FORGED)
    journal = Journal(BATCH_ID, 3)
    assert drive(store, journals.catch_up(journal, known)) == [0, 1, 2]
    assert journal.void == 1


def test_an_entry_from_elsewhere_is_void(store: Reliable, raw: MemoryStore) -> None:
    write(store, OTHER_ID, Entry(1, (done(0),)))
    there = raw.get(entry_key(0, OTHER_ID))
    assert there is not None
    for place in (entry_key(0), entry_key(1, OTHER_ID)):
        raw.put(place, there)
    journal, other = Journal(BATCH_ID, 1), Journal(OTHER_ID, 2)
    drive(store, journals.catch_up(journal))
    drive(store, journals.catch_up(other))
    assert (journal.void, journal.decided) == (1, {})
    assert (other.void, list(other.decided)) == (1, [0])


def test_a_task_that_may_run_only_once_does_not_start_after_a_void_entry(
    store: Reliable, raw: MemoryStore
) -> None:
    raw.put(entry_key(0), FORGED)
    for journal in (Journal(BATCH_ID, 1, once=True), Journal(BATCH_ID, 1)):
        drive(store, journals.catch_up(journal))
        journal.set_once()
        step = next_step(journal, 0, claim=2, deaths_here=0, attempt=0, max_retries=0, once=True)
        assert isinstance(step, Crashed)


def test_a_journal_that_is_flooded_is_not_read_for_ever(store: Reliable, raw: MemoryStore) -> None:
    for number in range(MAX_VOID + 5):
        raw.put(entry_key(number), FORGED)
    for procedure in (journals.catch_up, _append):
        with pytest.raises(RecordError, match=f"more than {MAX_VOID} entries"):
            drive(store, procedure(Journal(BATCH_ID, 2)))


def _append(journal: Journal) -> Any:
    return journals.append(journal, [done(0)], claim=1)


# -- the queue ---------------------------------------------------------------------------------


def test_a_batch_that_was_changed_is_refused(store: Reliable, raw: MemoryStore) -> None:
    drive(store, claims.submit(NAME, BATCH))
    body = bytearray(raw.get(claim_of(NAME.stem, 0)) or b"")
    body[-1] ^= 1
    raw.put(claim_of(NAME.stem, 0), bytes(body))
    outcome = drive(store, claims.claim(NAME, 1, "a"))
    assert isinstance(outcome, Refused)
    assert claim_of(NAME.stem, 0) in str(outcome.error)
    # Nobody holds it.
    assert drive(store, claims.holder(NAME, 2)) == ""


@pytest.mark.parametrize("prompt", [None, lambda: True])
def test_a_forged_batch_is_refused_also_where_all_is_asked_at_once(
    store: Reliable, raw: MemoryStore, prompt: Callable[[], bool] | None
) -> None:
    raw.put(claim_of(NAME.stem, 0), seal(BATCH))
    assert isinstance(drive(store, claims.claim(NAME, 1, "a", prompt=prompt)), Refused)


@pytest.mark.parametrize("prompt", [None, lambda: True])
def test_a_forged_claim_names_nobody(
    store: Reliable, raw: MemoryStore, prompt: Callable[[], bool] | None
) -> None:
    drive(store, claims.submit(NAME, BATCH))
    raw.put(claim_of(NAME.stem, 1), seal(Claim("attacker")))
    assert drive(store, claims.claim(NAME, 1, "a", prompt=prompt)) == Lost("")
    assert isinstance(drive(store, claims.claim(NAME, 2, "a", prompt=prompt)), Won)


@pytest.mark.parametrize("prompt", [None, lambda: True])
def test_a_forged_entry_does_not_keep_a_batch_from_being_claimed(
    store: Reliable, raw: MemoryStore, prompt: Callable[[], bool] | None
) -> None:
    drive(store, claims.submit(NAME, BATCH))
    raw.put(entry_key(0), FORGED)
    won = drive(store, claims.claim(NAME, 1, "a", prompt=prompt))
    assert isinstance(won, Won)
    assert (won.journal.next, won.journal.decided) == (1, {})


def test_a_claim_that_is_replayed_takes_nothing_over(store: Reliable, raw: MemoryStore) -> None:
    drive(store, claims.submit(NAME, BATCH))
    drive(store, claims.claim(NAME, 1, "a"))
    ours = raw.get(claim_of(NAME.stem, 1))
    assert ours is not None
    raw.put(claim_of(NAME.stem, 2), ours)
    assert drive(store, claims.holder(NAME, 2)) == "a"
    assert drive(store, claims.still_last(NAME, 1, "a"))
    assert drive(store, claims.give_back(NAME, 1))
    assert drive(store, claims.holder(NAME, 3)) == ""


def test_a_later_claim_that_is_forged_takes_nothing_over(store: Reliable, raw: MemoryStore) -> None:
    drive(store, claims.submit(NAME, BATCH))
    drive(store, claims.claim(NAME, 1, "a"))
    raw.put(claim_of(NAME.stem, 2), seal(Claim("mallory")))
    assert drive(store, claims.which_are_last([(NAME, 1)], "a")) == [True]


def test_a_later_claim_behind_a_forged_one_does(store: Reliable, raw: MemoryStore) -> None:
    drive(store, claims.submit(NAME, BATCH))
    drive(store, claims.claim(NAME, 1, "a"))
    raw.put(claim_of(NAME.stem, 2), seal(Claim("mallory")))
    drive(store, claims.claim(NAME, 3, "b"))
    assert drive(store, claims.which_are_last([(NAME, 1)], "a")) == [False]


def test_a_claim_that_is_overwritten_is_not_lost_by_that(store: Reliable, raw: MemoryStore) -> None:
    drive(store, claims.submit(NAME, BATCH))
    drive(store, claims.claim(NAME, 1, "a"))
    raw.put(claim_of(NAME.stem, 1), seal(Claim("mallory")))
    assert drive(store, claims.still_last(NAME, 1, "a"))


def test_a_name_that_is_ours_is_taken_back(store: Reliable, raw: MemoryStore) -> None:
    raw.put(claim_of(NAME.stem, 0), seal(batch_of(5)))
    drive(store, claims.submit(NAME, BATCH))
    key = claim_of(NAME.stem, 0)
    assert unseal(Batch, store.get(key) or b"", key) == BATCH


def test_a_submitter_learns_that_its_batch_will_not_run(store: Reliable, raw: MemoryStore) -> None:
    journal = Journal(BATCH_ID, 2)
    drive(store, claims.submit(NAME, BATCH))
    assert drive(store, claims.why_lost(NAME, journal)) == ""
    raw.put(claim_of(NAME.stem, 0), seal(BATCH))
    assert "is not signed" in drive(store, claims.why_lost(NAME, journal))


def test_a_batch_that_runs_is_not_given_up(store: Reliable, raw: MemoryStore) -> None:
    drive(store, claims.submit(NAME, BATCH))
    drive(store, claims.claim(NAME, 1, "a"))
    raw.put(claim_of(NAME.stem, 0), seal(BATCH))
    assert drive(store, claims.why_lost(NAME, Journal(BATCH_ID, 2))) == ""


def test_a_submitter_learns_that_a_result_was_replaced(store: Reliable, raw: MemoryStore) -> None:
    write(store, BATCH_ID, Entry(1, (done(0), done(1))))
    raw.put(entry_key(0), FORGED)
    journal = Journal(BATCH_ID, 2)
    drive(store, journals.catch_up(journal))
    assert "somebody has replaced entries" in drive(store, claims.why_lost(NAME, journal))


# -- agents ------------------------------------------------------------------------------------


def test_forged_heartbeats_are_left_out(store: Reliable, raw: MemoryStore) -> None:
    beat = Heartbeat("a", 1, "host", 1, "/socket", {}, {})
    store.put(layout.agent("a"), seal(beat))
    for name in ("b", "b.c", "d"):
        raw.put(layout.agent(name), seal(beat))
    raw.put("agents/e/f", b"")
    assert drive(store, heartbeats()) == [beat]


# -- joining -----------------------------------------------------------------------------------


def joined(raw: MemoryStore, key: ClusterKey | None) -> Cluster:
    store = raw if key is None else Signed(raw, key)
    return drive(Reliable(store), join("s3://bucket", key=key))


def test_a_new_cluster_gets_the_key_and_keeps_it(raw: MemoryStore) -> None:
    assert joined(raw, KEY).key_id == KEY.id
    assert joined(raw, KEY).key_id == KEY.id


def test_a_cluster_is_not_joined_without_its_key(raw: MemoryStore) -> None:
    joined(raw, KEY)
    with pytest.raises(WrongKeyError, match=rf"has a key \(its id is {KEY.id}\).*CLOUDRAY_KEY"):
        joined(raw, None)


def test_who_has_no_key_is_not_told_that_a_cluster_with_one_is_damaged(
    raw: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    joined(raw, KEY)
    with pytest.raises(WrongKeyError, match="has a key"):
        drive(Reliable(Signed(raw)), look("s3://bucket"))
    assert caplog.records == []


def test_a_damaged_record_of_a_cluster_without_a_key_says_so(raw: MemoryStore) -> None:
    store = Reliable(Signed(raw))
    drive(store, join("s3://bucket"))
    body = bytearray(raw.get(layout.CLUSTER) or b"")
    body[10] ^= 1  # of the nonce: it could be read nevertheless
    raw.put(layout.CLUSTER, bytes(body))
    with pytest.raises(RecordError, match=r"cluster .*damaged.*Restore that record"):
        drive(store, look("s3://bucket"))


def test_a_cluster_is_not_joined_with_another_key(raw: MemoryStore) -> None:
    other = new_key("the file x")
    joined(raw, KEY)
    with pytest.raises(WrongKeyError, match=f"has the key {KEY.id}, .* is {other.id} .*the file x"):
        joined(raw, other)


def test_who_has_a_key_joins_no_cluster_without_one(raw: MemoryStore) -> None:
    joined(raw, None)
    with pytest.raises(WrongKeyError, match=f"has no key, and one was found here .{KEY.id}"):
        joined(raw, KEY)


def test_a_cluster_cannot_be_made_to_look_like_one_with_another_key(raw: MemoryStore) -> None:
    joined(raw, KEY)
    forged = Cluster(1.0, 4.0, 0.2, 3.0, key_id=KEY.id)
    raw.put(layout.CLUSTER, seal(forged))
    with pytest.raises(RecordError, match=r"cluster .* is not signed.*Restore that record"):
        joined(raw, KEY)


def test_of_two_who_make_a_cluster_at_once_the_one_without_the_key_is_told(
    raw: MemoryStore,
) -> None:
    procedure = join("s3://bucket")
    next(procedure)
    procedure.send(None)
    joined(raw, KEY)
    with pytest.raises(WrongKeyError, match="has a key"):
        drive(Reliable(raw), _go_on(procedure, []))


def test_and_so_is_the_one_with_the_key(raw: MemoryStore) -> None:
    procedure = join("s3://bucket", key=KEY)
    next(procedure)
    procedure.send(None)
    procedure.send(None)
    joined(raw, None)
    with pytest.raises(WrongKeyError, match="has no key"):
        drive(Reliable(Signed(raw, KEY)), _go_on(procedure, []))


def _go_on(procedure: Any, answer: Any) -> Any:
    error: Exception | None = None
    while True:
        try:
            op = procedure.send(answer) if error is None else procedure.throw(error)
        except StopIteration as stop:
            return stop.value
        error = None
        try:
            answer = yield op
        except (RecordError, StoreError) as raised:
            error = raised


def test_looking_with_a_key_writes_nothing(raw: MemoryStore) -> None:
    assert drive(Reliable(Signed(raw, KEY)), look("s3://bucket", KEY)) is None
    assert raw.list("") == []


# -- bombs -------------------------------------------------------------------------------------

BOMBS = {
    "nested": b"\x91" * 1_000_000,
    "nested in a field nobody knows": b"\x81\xa1?" + b"\x91" * 1_000_000,
    "a huge list": b"\xdd\xff\xff\xff\xff",
    "a huge list in a list": b"\x92\x00\xdd\xff\xff\xff\xff",
    "huge bytes": b"\x91\xc6\xff\xff\xff\xff",
    "a huge table": b"\xdf\xff\xff\xff\xff",
    "nothing": b"",
}
KINDS: dict[type[Any], Kind] = {
    Batch: Kind.BATCH,
    Claim: Kind.CLAIM,
    Entry: Kind.JOURNAL,
    Job: Kind.JOB,
    Heartbeat: Kind.HEARTBEAT,
    Cluster: Kind.CLUSTER,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_payload_that_is_a_bomb_is_an_error_that_names_its_key(
    kind: type[Any], bomb: bytes
) -> None:
    import tracemalloc

    body = envelope.seal(KINDS[kind], bomb)
    tracemalloc.start()
    with pytest.raises(RecordError, match=f"the/key does not hold a {kind.__name__}"):
        unseal(kind, body, "the/key")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_record_of_another_kind_is_an_error_that_names_its_key(kind: type[Any]) -> None:
    with pytest.raises(RecordError, match="the/key holds a record of kind 9"):
        unseal(kind, envelope.seal(Kind.LOG, b"text"), "the/key")


def test_a_bomb_without_a_signature_is_not_even_decoded(store: Reliable, raw: MemoryStore) -> None:
    raw.put(entry_key(0), envelope.seal(Kind.JOURNAL, BOMBS["nested"]))
    with pytest.raises(TamperedError, match="is not signed"):
        store.get(entry_key(0))
