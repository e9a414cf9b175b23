from __future__ import annotations

import pytest

from cloudray.protocol.joining import join
from cloudray.protocol.records import Cluster, Heartbeat, seal
from cloudray.store import Create, Get, Ledger, List, RecordError, Store, StoreError, drive, layout
from cloudray.timing import REMOTE, SHARED_DIRECTORY, Timing

TIMING = Timing(heartbeat_s=1.0, lease_s=4.0, commit_s=0.2, scan_s=3.0)
CLUSTER = Cluster(1.0, 4.0, 0.2, 3.0)


def test_the_first_to_come_says_which_times_everybody_uses(store: Store) -> None:
    assert drive(store, join("s3://bucket", TIMING)) == CLUSTER
    assert drive(store, join("s3://bucket")) == CLUSTER


@pytest.mark.parametrize(
    ("url", "timing"), [("s3://bucket", REMOTE), ("file:///shared", SHARED_DIRECTORY)]
)
def test_by_default_the_times_suit_the_place(store: Store, url: str, timing: Timing) -> None:
    assert drive(store, join(url)).lease_s == timing.lease_s


def test_who_comes_later_cannot_change_the_times(store: Store) -> None:
    drive(store, join("s3://bucket"))
    assert drive(store, join("s3://bucket", TIMING)).lease_s == REMOTE.lease_s


def test_of_two_who_come_at_once_the_second_takes_the_times_of_the_first(store: Store) -> None:
    late = join("s3://bucket", TIMING)
    asked = next(late)
    assert asked == Get(layout.CLUSTER)
    asked = late.send(None)
    assert isinstance(asked, List)
    drive(store, join("s3://bucket"))
    create = late.send([])
    assert isinstance(create, Create)
    with pytest.raises(StopIteration) as joined:
        late.send(store.perform(create))
    assert joined.value.value.lease_s == REMOTE.lease_s


def test_joining_a_cluster_that_is_there_costs_one_read(store: Store, ledger: Ledger) -> None:
    drive(store, join("s3://bucket"))
    before = ledger.as_dict()
    drive(store, join("s3://bucket"))
    assert ledger.subtract(before) == Ledger(get=1)


def test_who_has_probed_the_store_saves_others_doing_it(store: Store) -> None:
    assert drive(store, join("s3://bucket", probed=True)).probed
    assert drive(store, join("s3://bucket")).probed


@pytest.mark.parametrize(
    "body",
    [b"something else", seal(Heartbeat("a", 1, "h", 1, "", {}, {}))],
    ids=["something else", "a heartbeat"],
)
def test_something_else_in_the_place_of_the_record_is_refused(store: Store, body: bytes) -> None:
    store.put(layout.CLUSTER, body)
    with pytest.raises(RecordError, match="cluster"):
        drive(store, join("s3://bucket"))


def test_a_place_that_holds_something_else_is_refused(store: Store) -> None:
    for key in ("photos/1.jpg", "photos/2.jpg", "notes.txt", "more.txt"):
        store.put(key, b"")
    with pytest.raises(StoreError) as raised:
        drive(store, join("s3://bucket"))
    assert str(raised.value) == (
        "s3://bucket holds no cluster but something else: more.txt, notes.txt, photos/1.jpg "
        "and more. Name an empty place, or one that does not exist yet."
    )
    assert store.get(layout.CLUSTER) is None


def test_what_a_cluster_has_left_without_its_record_is_nothing_else(store: Store) -> None:
    for key in ("agents/a", "probe/p", "queue/c/5/b.0", "t7/jobs/j/meta"):
        store.put(key, b"")
    assert drive(store, join("s3://bucket", TIMING)) == CLUSTER
