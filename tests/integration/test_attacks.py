"""Somebody may write to the bucket, and has no key: nothing of his runs, all of it is reported.

Each attack carries a pickle that makes a file when it is loaded.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

import cloudray as ray
from cloudray import configuration, ids
from cloudray.cli.app import run
from cloudray.exceptions import ObjectLostError, RaySystemError
from cloudray.protocol import journal as journals
from cloudray.protocol.demand import class_of
from cloudray.protocol.records import (
    Batch,
    Claim,
    Entry,
    Heartbeat,
    Job,
    Shape,
    Task,
    Verb,
    Word,
    seal,
)
from cloudray.store import Kind, envelope, layout
from cloudray.store.layout import QueueName, claim_of
from tests.integration.keyed import Keyed

MB = 1 << 20


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.makedirs, (str(self.marker), 0o777, True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    del tmp_path_factory
    ray.shutdown()
    cluster = Keyed()
    try:
        cluster.start("--num-cpus", "2")
        ray.init(cluster.address, key=cluster.key.text)
        yield cluster
    finally:
        ray.shutdown()
        cluster.close()


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What a bomb would make, and has not made when the test is over."""
    yield tmp_path / "exploded"
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def bomb(marker: Path) -> bytes:
    return pickle.dumps(Bomb(marker))


@ray.remote
def add_one(number: int) -> int:
    return number + 1


@ray.remote
def zeros(size_bytes: int) -> bytes:
    return bytes(size_bytes)


@ray.remote
def length(value: bytes) -> int:
    return len(value)


def work_goes_on() -> None:
    """What honest users have submitted runs, and what they submit now does."""
    assert ray.get([add_one.remote(number) for number in range(5)], timeout=60) == [1, 2, 3, 4, 5]


def test_the_bombs_are_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


# -- the queue ---------------------------------------------------------------------------------


def forged_batch(bomb: bytes) -> tuple[Batch, QueueName]:
    """A batch that would run in every respect, if it were signed."""
    prefix = ids.batch_prefix(7, ids.new_timed_id(), ids.new_id())
    shape = Shape("f" * 64, "bomb", 1, {"CPU": 10_000})
    batch = Batch(ids.batch_id(prefix, 0), (shape,), (Task(0, bomb),))
    return batch, QueueName(class_of({"CPU": 10_000}), 5, batch.id, 1, 0)


def put_forged_batch(cluster: Keyed, bomb: bytes) -> QueueName:
    batch, name = forged_batch(bomb)
    cluster.raw.put(layout.blob(batch.id, "f" * 64), envelope.seal(Kind.BLOB, bomb))
    job = Job(ids.job_of(batch.id), "3", "host", 1, 1.0, (), "/")
    cluster.raw.put(layout.meta(batch.id), seal(job))
    cluster.raw.put(claim_of(name.stem, 0), seal(batch))
    return name


def test_a_forged_batch_does_not_run(cluster: Keyed, bomb: bytes) -> None:
    name = put_forged_batch(cluster, bomb)
    cluster.logged(f"{claim_of(name.stem, 0)} in {cluster.address} is not signed")
    work_goes_on()
    # The next one is found by a later scan, which does not report the first again.
    later = put_forged_batch(cluster, bomb)
    cluster.logged(claim_of(later.stem, 0))
    assert cluster.log().count(claim_of(name.stem, 0)) == 1
    assert cluster.listed(layout.journal(name.batch)) == []


def test_refused_records_are_counted_where_people_look(
    cluster: Keyed,
    bomb: bytes,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = ray.nodes()[0]["RefusedRecords"]
    put_forged_batch(cluster, bomb)
    cluster.wait(lambda: ray.nodes()[0]["RefusedRecords"] > before)
    monkeypatch.setenv("CLOUDRAY_KEY", cluster.key.text)
    settings = configuration.current(), configuration.sources()
    try:
        assert run(["status", cluster.address]) == 0
    finally:
        configuration.use(*settings)
    assert re.search(r"Refused: \d+ stored record", capsys.readouterr().out)


def test_a_batch_that_was_changed_in_the_queue_does_not_run_and_its_driver_is_told(
    cluster: Keyed, bomb: bytes
) -> None:
    cluster.pause()
    before = cluster.listed("queue/")
    ref = add_one.remote(1)
    ready, _ = ray.wait([ref], timeout=0)
    assert ready == []
    key = cluster.new_key("queue/", before, ".0")
    batch, _ = forged_batch(bomb)
    cluster.raw.put(key, seal(batch))
    cluster.go_on()
    with pytest.raises(ObjectLostError, match=f"{key} in .* is not signed"):
        ray.get(ref, timeout=60)
    cluster.logged(key)
    work_goes_on()


def test_a_claim_that_is_replayed_holds_nothing(cluster: Keyed) -> None:
    cluster.pause()
    before = cluster.listed("queue/")
    ref = add_one.remote(1)
    ray.wait([ref], timeout=0)
    key = cluster.new_key("queue/", before, ".0")
    stem = key.removesuffix(".0")
    # Of an agent that lives, so that a claim which is believed would keep others away.
    claim = f"{stem}.7"
    cluster.store.put(claim, seal(Claim(cluster.listed(layout.AGENTS)[0].partition("/")[2])))
    body = cluster.raw.get(claim)
    assert body is not None
    cluster.raw.delete([claim])
    cluster.raw.put(f"{stem}.1", body)
    cluster.raw.put(f"{stem}.2", seal(Claim("nobody")))
    cluster.go_on()
    assert ray.get(ref, timeout=60) == 2
    cluster.logged(f"{stem}.1 in {cluster.address} has a signature that is not that of this record")


# -- results -----------------------------------------------------------------------------------


def test_a_forged_result_is_never_returned(
    cluster: Keyed, bomb: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.pause()
    before = cluster.listed("queue/")
    ref = add_one.remote(1)
    ray.wait([ref], timeout=0)
    cluster.new_key("queue/", before, ".0")
    key = journals.key(ids.unit_of(ref.id), 0)
    with caplog.at_level(logging.WARNING):
        cluster.raw.put(key, seal(Entry(1, (Word(0, Verb.DONE, (bomb,)),))))
        cluster.wait(lambda: not ray.wait([ref], timeout=0.1)[0] and key in caplog.text)
        cluster.go_on()
        assert ray.get(ref, timeout=60) == 2
    assert caplog.text.count(key) == 1
    cluster.logged(key)


def test_a_result_of_another_task_is_never_returned(cluster: Keyed) -> None:
    first = add_one.remote(1)
    assert ray.get(first, timeout=60) == 2
    signed = cluster.raw.get(journals.key(ids.unit_of(first.id), 0))
    assert signed is not None
    cluster.pause()
    before = cluster.listed("queue/")
    second = add_one.remote(2)
    ray.wait([second], timeout=0)
    cluster.new_key("queue/", before, ".0")
    cluster.raw.put(journals.key(ids.unit_of(second.id), 0), signed)
    cluster.go_on()
    assert ray.get(second, timeout=60) == 3


def test_a_large_value_that_was_replaced_is_loaded_nowhere(cluster: Keyed, bomb: bytes) -> None:
    before = cluster.listed("t7/")
    ref = zeros.remote(MB)
    ray.wait([ref], timeout=60)
    (key,) = [key for key in cluster.listed("t7/") if layout.is_object(key) and key not in before]
    cluster.raw.put(key, envelope.seal(Kind.OBJECT, bomb))
    with pytest.raises(ObjectLostError, match=f"{key} in .* is not signed"):
        ray.get(ref, timeout=60)
    with pytest.raises(ObjectLostError, match=f"{key} in .* is not signed"):
        ray.get(length.remote(ref), timeout=60)
    cluster.logged(key)
    work_goes_on()


@pytest.mark.parametrize("at", [40, 100, -1])
def test_a_value_of_several_parts_is_refused_if_any_byte_was_changed(
    cluster: Keyed, at: int
) -> None:
    ref = ray.put(bytes(9 * MB + 5))
    key = layout.put_object(ref.id)
    assert ray.get(length.remote(ref), timeout=60) == 9 * MB + 5
    ref = ray.put(bytes(9 * MB + 5))
    ray.wait([ref], timeout=60)
    key = layout.put_object(ref.id)
    cluster.wait(lambda: cluster.raw.head(key))
    body = bytearray(cluster.raw.get(key) or b"")
    body[at] ^= 1
    cluster.raw.put(key, bytes(body))
    with pytest.raises(ObjectLostError, match=key):
        ray.get(ref, timeout=60)
    with pytest.raises(ObjectLostError, match=key):
        ray.get(length.remote(ref), timeout=60)


# -- code --------------------------------------------------------------------------------------


def test_a_function_that_was_replaced_is_not_loaded(cluster: Keyed, marker: Path) -> None:
    def evil(path: str) -> None:
        Path(path).mkdir()

    @ray.remote
    def innocent(path: str) -> str:
        return path

    cluster.pause()
    before = cluster.listed()
    ref = innocent.remote(str(marker))
    ray.wait([ref], timeout=0)
    cluster.new_key("queue/", before, ".0")
    blobs = [key for key in cluster.listed("t7/") if "/blobs/" in key and key not in before]
    for key in blobs:
        cluster.raw.put(key, envelope.seal(Kind.BLOB, cloudpickle.dumps(evil)))
    cluster.go_on()
    assert blobs
    with pytest.raises(RaySystemError, match="is not signed, so it was not loaded"):
        ray.get(ref, timeout=60)
    work_goes_on()


# -- sizes, kinds and keys -----------------------------------------------------------------------


def place(cluster: Keyed, key: str, size_bytes: int, beginning: bytes = b"") -> None:
    """Put a file of a size at a key that has no such bytes on any disk."""
    path = cluster.folder / "store" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(size_bytes)


def test_a_record_of_ten_gigabytes_is_not_read_into_memory(cluster: Keyed) -> None:
    cluster.pause()
    before = cluster.listed("queue/")
    ref = add_one.remote(1)
    ray.wait([ref], timeout=0)
    key = cluster.new_key("queue/", before, ".0")
    stem = key.removesuffix(".0")
    place(cluster, f"{stem}.1", 10_000 * MB, seal(Claim("nobody")))
    place(cluster, "agents/huge", 10_000 * MB, seal(Heartbeat("huge", 1, "", 1, "", {}, {})))
    cluster.go_on()
    assert ray.get(ref, timeout=60) == 2
    cluster.logged(f"{stem}.1 in {cluster.address} has more than the 4")
    assert len(ray.nodes()) == 1
    assert cluster.agent is not None
    assert psutil.Process(cluster.agent.pid).memory_info().rss < 500 * MB
    cluster.raw.delete([f"{stem}.1", "agents/huge"])


@pytest.mark.parametrize("length", [0, 1, 63, 64, 70])
def test_a_record_that_was_cut_off_stops_nobody(cluster: Keyed, length: int) -> None:
    cluster.pause()
    before = cluster.listed("queue/")
    ref = add_one.remote(1)
    ray.wait([ref], timeout=0)
    key = cluster.new_key("queue/", before, ".0")
    body = cluster.raw.get(key)
    assert body is not None
    for place_ in (key.removesuffix("0") + "1", journals.key(ids.unit_of(ref.id), 0)):
        cluster.raw.put(place_, body[:length])
    cluster.go_on()
    assert ray.get(ref, timeout=60) == 2


def test_records_of_wrong_kinds_and_bombs_stop_nobody(cluster: Keyed, bomb: bytes) -> None:
    nested = envelope.seal(Kind.BATCH, b"\x93" * 100_000)
    kinds = [envelope.seal(kind, bomb) for kind in Kind]
    keys = []
    for body in (nested, *kinds, b"\x80\x04" + bomb):
        _, name = forged_batch(bomb)
        keys.append(claim_of(name.stem, 0))
        cluster.raw.put(keys[-1], body)
    cluster.raw.put("agents/forged", kinds[0])
    for key in keys:
        cluster.logged(key)
    work_goes_on()
    assert len(ray.nodes()) == 1
    cluster.raw.delete(["agents/forged", *keys])


def test_strange_names_in_the_bucket_stop_nobody(cluster: Keyed, bomb: bytes) -> None:
    _, name = forged_batch(bomb)
    folder = cluster.folder / "store" / name.stem
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = [
        f"{folder.name}.\N{ARABIC-INDIC DIGIT ONE}",
        f"{folder.name}.007",
        f"{folder.name.upper()}.0",
        "..%2f..%2fetc%2fpasswd.0",
        "\\..\\..\\boot.ini.0",
        "a\tb\x1b[2J.0",
        "\N{RIGHT-TO-LEFT OVERRIDE}cod.0",
        os.fsdecode(b"\xff\xfe.0"),
        "-" * 200 + ".0",
    ]
    for each in names:
        (folder.parent / each).write_bytes(envelope.seal(Kind.BATCH, bomb))
    (folder.parent / "x-x-00000000-7-1-0.0").symlink_to("/etc/passwd")
    (folder.parent / "loop").symlink_to("..")
    os.mkfifo(cluster.folder / "store" / claim_of(forged_batch(bomb)[1].stem, 0))
    (cluster.folder / "store" / "agents" / "a\nb").write_bytes(bomb)
    later = put_forged_batch(cluster, bomb)
    cluster.logged(claim_of(later.stem, 0))
    work_goes_on()
    assert len(ray.nodes()) == 1
    assert "Traceback" not in cluster.log()
    for path in [*folder.parent.iterdir(), cluster.folder / "store" / "agents" / "a\nb"]:
        path.unlink()


@pytest.mark.parametrize(
    "key",
    ["../outside", "queue/../../outside", "/etc/passwd", "a/./b", "a\0b", "a//b", ".tmp/x", "a/\n"],
)
def test_no_key_leads_out_of_the_cluster(cluster: Keyed, key: str) -> None:
    record = envelope.seal(Kind.OBJECT, b"value")
    for act in (
        lambda: cluster.store.put(key, record),
        lambda: cluster.store.get(key),
        lambda: cluster.store.head(key),
        lambda: cluster.raw.path(key),
        lambda: cluster.store.delete([key]),
    ):
        with pytest.raises(ValueError, match="is not a key"):
            act()


def test_a_value_that_names_a_file_outside_is_lost(cluster: Keyed) -> None:
    from cloudray.values import codec

    for key in ("../../../etc/passwd", "/etc/passwd", "a\0b"):
        cluster.pause()
        before = cluster.listed("queue/")
        ref = add_one.remote(1)
        ray.wait([ref], timeout=0)
        cluster.new_key("queue/", before, ".0")
        word = Word(0, Verb.DONE, (codec.stored(key, 10),))
        # Even if somebody with the key has said so.
        cluster.store.put(journals.key(ids.unit_of(ref.id), 0), seal(Entry(1, (word,))))
        cluster.go_on()
        for asked in (ref, add_one.remote(ref)):
            with pytest.raises(ObjectLostError):
                ray.get(asked, timeout=60)
    work_goes_on()
