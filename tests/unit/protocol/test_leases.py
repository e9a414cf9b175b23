from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudray.protocol.leases import IDLE_LEASES, Observer, idle_beat_s, is_frugal
from cloudray.protocol.records import Cluster
from cloudray.timing import EMBEDDED, REMOTE, SHARED_DIRECTORY, Timing

LEASE_S = 12.0
#: how often agents look: a quarter of the lease
LOOK_S = 3.0


def looks(
    observer: Observer,
    count: int,
    *,
    start_s: float = 0.0,
    every_s: float = LOOK_S,
    etag: str = "x",
) -> set[str]:
    """Look several times at an agent whose heartbeat stands still."""
    dead: set[str] = set()
    for number in range(count):
        dead = observer.look(start_s + number * every_s, {"a": etag}, {"a"})
    return dead


def test_an_agent_is_dead_when_its_heartbeat_stood_still_for_a_lease() -> None:
    assert looks(Observer(LEASE_S), 4) == set()
    assert looks(Observer(LEASE_S), 5) == {"a"}


def test_the_dead_stay_dead() -> None:
    assert looks(Observer(LEASE_S), 9) == {"a"}


def test_a_heartbeat_that_moves_begins_the_lease_anew() -> None:
    observer = Observer(LEASE_S)
    looks(observer, 4, etag="x")
    assert looks(observer, 4, start_s=4 * LOOK_S, etag="y") == set()


def test_an_agent_that_beats_is_never_dead() -> None:
    observer = Observer(LEASE_S)
    for number in range(50):
        assert observer.look(number * LOOK_S, {"a": str(number)}, {"a"}) == set()


def test_an_agent_without_any_heartbeat_dies_a_lease_after_it_was_first_missed() -> None:
    observer = Observer(LEASE_S)
    found = [observer.look(number * LOOK_S, {}, {"a"}) for number in range(5)]
    assert found == [set(), set(), set(), set(), {"a"}]


def test_only_those_who_are_watched_are_judged() -> None:
    observer = Observer(LEASE_S)
    for number in range(9):
        assert observer.look(number * LOOK_S, {"a": "x", "b": "x"}, {"b"}) <= {"b"}


def test_who_is_watched_again_is_seen_for_the_first_time() -> None:
    observer = Observer(LEASE_S)
    looks(observer, 5)
    observer.look(5 * LOOK_S, {"a": "x"}, set())
    assert looks(observer, 4, start_s=6 * LOOK_S) == set()


def test_a_pause_of_the_observer_condemns_nobody() -> None:
    observer = Observer(LEASE_S)
    looks(observer, 4)
    assert observer.look(3 * LOOK_S + 1000 * LEASE_S, {"a": "x"}, {"a"}) == set()


def test_what_was_counted_before_a_pause_counts_after_it() -> None:
    observer = Observer(LEASE_S)
    looks(observer, 4)
    assert looks(observer, 2, start_s=1000.0) == {"a"}


def test_gaps_of_a_third_of_the_lease_do_not_count() -> None:
    assert looks(Observer(LEASE_S), 100, every_s=LEASE_S / 3) == set()


@given(st.lists(st.floats(0.0, 2 * LEASE_S), max_size=40))
def test_nobody_is_dead_before_a_lease_has_passed(gaps_s: list[float]) -> None:
    observer = Observer(LEASE_S)
    now_s = 0.0
    observer.look(now_s, {"a": "x"}, {"a"})
    for gap_s in gaps_s:
        now_s += gap_s
        dead = observer.look(now_s, {"a": "x"}, {"a"})
        assert not dead or now_s > LEASE_S * 0.999


# -- who holds nothing ---------------------------------------------------------------------------


def cluster_of(timing: Timing) -> Cluster:
    return Cluster(timing.heartbeat_s, timing.lease_s, timing.commit_s, timing.scan_s)


def test_where_requests_cost_who_holds_nothing_beats_once_a_minute() -> None:
    assert is_frugal(cluster_of(REMOTE))
    assert idle_beat_s(cluster_of(REMOTE)) == 60.0


def test_where_they_cost_nothing_everybody_beats_alike() -> None:
    for timing in (EMBEDDED, SHARED_DIRECTORY):
        assert not is_frugal(cluster_of(timing))
        assert idle_beat_s(cluster_of(timing)) == timing.heartbeat_s


def test_who_beats_rarely_is_not_taken_for_gone_after_a_few_lost_beats() -> None:
    for timing in (EMBEDDED, SHARED_DIRECTORY, REMOTE):
        assert IDLE_LEASES * timing.lease_s > 3 * idle_beat_s(cluster_of(timing))
