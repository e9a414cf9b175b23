"""A machine that sleeps past its lease: others take its work, and it publishes nothing twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import cloudray as ray
from cloudray import ids
from cloudray.protocol import journal as journals
from cloudray.protocol.records import Entry, Verb, unseal
from cloudray.store import Reliable, open_store
from tests import servers
from tests.buckets import CALM, HASTY, credentials
from tests.integration.clusters import wait_until_gone
from tests.integration.places import Place, family_of, place_at

LIMIT_S = 60


@pytest.fixture(scope="module")
def bucket() -> Iterator[servers.Server]:
    with servers.moto() as server, credentials():
        yield server


@pytest.fixture
def place(bucket: servers.Server, tmp_path: Path) -> Iterator[Place]:
    """A cluster in a bucket, with short leases."""
    ray.shutdown()
    with place_at(bucket.address(tmp_path.name), tmp_path) as made:
        yield made


@pytest.fixture
def calm_place(bucket: servers.Server, tmp_path: Path) -> Iterator[Place]:
    """One whose leases no busy machine outlasts."""
    ray.shutdown()
    with place_at(bucket.address(tmp_path.name), tmp_path, CALM) as made:
        yield made


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Place]:
    """A cluster in a directory, with short leases."""
    ray.shutdown()
    with place_at(f"file://{tmp_path}/cluster?durable=false", tmp_path) as made:
        yield made


@ray.remote
def hold_on(folder: Path) -> int:
    """Say who runs this, and go on until told to end."""
    folder.joinpath(f"pid-{os.getpid()}").touch()
    while not folder.joinpath("end").exists():
        time.sleep(0.02)
    return os.getpid()


def runners(folder: Path) -> set[int]:
    """The processes that have begun the task."""
    return {int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")}


def wait_for_runners(folder: Path, count: int) -> set[int]:
    deadline_s = time.monotonic() + LIMIT_S
    while len(found := runners(folder)) < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return found


def final_words(place: Place, ref: ray.ObjectRef[int]) -> list[tuple[int, Verb]]:
    """All final words about a task that stand in its journal, with their claims."""
    store = Reliable(open_store(place.address))
    found: list[tuple[int, Verb]] = []
    try:
        number = 0
        while True:
            key = journals.key(ids.unit_of(ref.id), number)
            body = store.get(key)
            if body is None:
                return found
            entry = unseal(Entry, body, key)
            found += [
                (entry.claim, word.verb)
                for word in entry.words
                if word.verb is not Verb.STARTED and word.index == ids.index_of(ref.id)
            ]
            number += 1
    finally:
        store.close()


@pytest.mark.parametrize("where", ["directory", "place"])
def test_a_machine_that_slept_stops_what_was_taken_and_says_nothing_of_it(
    request: pytest.FixtureRequest, where: str, tmp_path: Path
) -> None:
    place: Place = request.getfixturevalue(where)
    sleeper = place.start_agent("--num-cpus", "1")
    ray.init(place.address)
    ref = hold_on.remote(tmp_path)
    (first,) = wait_for_runners(tmp_path, 1)
    place.pause(sleeper)
    place.start_agent("--num-cpus", "1")
    wait_for_runners(tmp_path, 2)
    executor = psutil.Process(first)
    place.wake(sleeper)
    # While the task goes on elsewhere: nobody has told the sleeper that it is over.
    wait_until_gone([executor])
    (tmp_path / "end").touch()
    assert ray.get(ref, timeout=LIMIT_S) in runners(tmp_path) - {first}
    ((claim, verb),) = final_words(place, ref)
    assert (claim >= 2, verb) == (True, Verb.DONE)
    assert sleeper.poll() is None


def test_a_machine_that_slept_long_but_alone_goes_on_where_it_was(
    directory: Place, tmp_path: Path
) -> None:
    place = directory
    sleeper = place.start_agent("--num-cpus", "1")
    ray.init(place.address)
    ref = hold_on.remote(tmp_path)
    (only,) = wait_for_runners(tmp_path, 1)
    place.pause(sleeper)
    beat = place.keys("agents/")
    # Longer than a lease, by the only clock that matters: its own.
    time.sleep(1.5 * HASTY.lease_s)
    place.wake(sleeper)
    (tmp_path / "end").touch()
    assert ray.get(ref, timeout=LIMIT_S) == only
    assert final_words(place, ref) == [(1, Verb.DONE)]
    assert place.keys("agents/") == beat


def test_work_of_a_killed_machine_is_done_by_another(place: Place, tmp_path: Path) -> None:
    first = place.start_agent("--num-cpus", "1")
    ray.init(place.address)
    ref = hold_on.remote(tmp_path)
    (pid,) = wait_for_runners(tmp_path, 1)
    place.start_agent("--num-cpus", "1")
    family = family_of(first)
    for process in family:
        process.kill()
    first.wait(LIMIT_S)
    wait_until_gone(family)
    wait_for_runners(tmp_path, 2)
    (tmp_path / "end").touch()
    assert ray.get(ref, timeout=LIMIT_S) in runners(tmp_path) - {pid}
    ((claim, verb),) = final_words(place, ref)
    assert (claim >= 2, verb) == (True, Verb.DONE)


def test_a_machine_that_drains_finishes_what_runs_and_leaves_the_rest(
    calm_place: Place, tmp_path: Path
) -> None:
    place = calm_place
    leaving = place.start_agent("--num-cpus", "1")
    ray.init(place.address)
    runs = hold_on.remote(tmp_path)
    (pid,) = wait_for_runners(tmp_path, 1)
    waits = [ray.remote(os.getpid).remote() for _ in range(3)]
    leaving.send_signal(signal.SIGTERM)
    place.start_agent("--num-cpus", "1")
    assert pid not in ray.get(waits, timeout=LIMIT_S)
    assert leaving.poll() is None
    (tmp_path / "end").touch()
    assert ray.get(runs, timeout=LIMIT_S) == pid
    assert final_words(place, runs) == [(1, Verb.DONE)]
    assert leaving.wait(LIMIT_S) == 0
