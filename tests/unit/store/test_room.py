from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloudray.exceptions import ObjectStoreFullError
from cloudray.store import Room, RoomSpec, StoreFullError
from cloudray.store.spares import SMALLEST_BYTES

MB = SMALLEST_BYTES
ROOT = Path(__file__).parents[3]
#: The calls by which a room changes files.
CHANGES = ("rename", "unlink", "open", "close", "writev", "write", "pwrite", "ftruncate")


class Stored:
    """A room, and values that were adopted from it."""

    def __init__(self, folder: Path, quota_bytes: int | None, *, disk: bool = True) -> None:
        self.root = folder / "store"
        self.objects = self.root / "t7" / "jobs" / "job" / "objects"
        self.objects.mkdir(parents=True)
        (self.root / ".tmp").mkdir()
        self.spill = folder / "disk"
        self.room = Room(
            RoomSpec(
                str(self.root / ".tmp" / "room"),
                str(self.spill) if disk else None,
                quota_bytes,
                str(self.root),
            )
        )

    def store(self, name: str, body: bytes) -> Path:
        return self.room.write([body]).rename(self.objects / name)

    def actual(self) -> tuple[int, int]:
        """Bytes of values and of spare files, as they lie there."""
        memory = self.root / ".tmp" / "room"
        values = [*self.objects.iterdir(), *memory.glob("new/*"), *memory.glob("done/*")]
        return sum(map(size_of, values)), sum(map(size_of, memory.glob("spare/*")))

    def counted(self) -> tuple[int, int]:
        return self.room.used_bytes(), self.room.spare_bytes()

    def unfinished(self) -> list[str]:
        folders = (self.root / ".tmp" / "room", self.spill)
        return [path.name for folder in folders for path in folder.glob("new/*")]


def size_of(path: Path) -> int:
    return path.stat().st_size


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path, 10 * MB)


# -- writing -------------------------------------------------------------------------------


def test_parts_are_written_one_after_the_other(stored: Stored) -> None:
    numbers = memoryview(bytes(range(16))).cast("Q")
    path = stored.room.write([b"a", b"", memoryview(b"bc"), numbers])
    assert path.read_bytes() == b"abc" + bytes(range(16))


def test_only_its_user_can_read_a_file(stored: Stored) -> None:
    assert stored.room.write([b"secret"]).stat().st_mode & 0o077 == 0


def test_what_fits_lies_in_memory_and_is_counted(stored: Stored) -> None:
    path = stored.store("a", bytes(3 * MB))
    assert stored.root in path.parents
    assert stored.counted() == stored.actual() == (3 * MB, 0)


def test_what_goes_beyond_the_quota_lies_on_disk(stored: Stored) -> None:
    stored.store("a", bytes(8 * MB))
    path = stored.room.write([bytes(3 * MB)])
    assert stored.spill in path.parents
    assert stored.counted() == stored.actual() == (8 * MB, 0)


def test_without_a_disk_it_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    stored = Stored(tmp_path, 10 * MB, disk=False)
    stored.store("a", bytes(8 * MB))
    with pytest.raises(StoreFullError) as refused:
        stored.room.write([bytes(3 * MB)])
    assert isinstance(refused.value, ObjectStoreFullError)
    said = str(refused.value)
    for part in ("3.1 MB", "8.4 MB used of the 10.5 MB", "nothing may be spilled"):
        assert part in said
    for advice in ("del ref", "object_store_memory=", "object_spilling_directory="):
        assert advice in said
    assert stored.counted() == stored.actual() == (8 * MB, 0)
    assert stored.unfinished() == []


def test_it_is_said_when_there_will_never_be_room(small: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").symlink_to(small)
    stored = Stored(tmp_path, 10 * MB)
    stored.store("a", bytes(9 * MB))
    for size_bytes, hopeless in ((9 * MB, False), (11 * MB, True)):
        with pytest.raises(StoreFullError) as refused:
            stored.room.write([bytes(size_bytes)])
        assert refused.value.hopeless is hopeless


def test_a_filesystem_that_is_nearly_full_counts_like_a_quota(small: Path, tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(small)
    stored = Stored(tmp_path, None)
    paths = [stored.store(str(number), bytes(MB)) for number in range(5)]
    assert all(stored.spill not in path.parents for path in paths)
    # A quarter of a small filesystem is kept for what cannot lie on disk.
    assert stored.spill in stored.room.write([bytes(2 * MB)]).parents
    assert os.statvfs(small).f_bavail * os.statvfs(small).f_frsize >= 2 * MB


def test_space_that_was_promised_to_others_is_taken(small: Path, tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(small)
    stored = Stored(tmp_path, None)
    promised = stored.root / ".tmp" / "room" / "new" / f"1-0-{4 * MB}"
    promised.touch()
    assert stored.spill in stored.room.write([bytes(3 * MB)]).parents
    promised.unlink()
    assert stored.spill not in stored.room.write([bytes(3 * MB)]).parents


def test_a_full_disk_is_refused_with_figures_of_both(small: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").symlink_to(small)
    stored = Stored(tmp_path, MB)
    with pytest.raises(StoreFullError, match=r"used of the 1\.0 MB.*on disk [78]\.\d MB are free"):
        stored.room.write([bytes(9 * MB)])
    assert stored.unfinished() == []


def test_when_space_runs_out_while_writing_the_next_place_is_tried(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev = os.writev

    def full_once(descriptor: int, buffers: Any) -> int:
        monkeypatch.setattr(os, "writev", writev)
        writev(descriptor, [memoryview(buffers[0])[:MB]])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full_once)
    path = stored.room.write([bytes(2 * MB), b"end"])
    assert stored.spill in path.parents
    assert path.read_bytes() == bytes(2 * MB) + b"end"
    assert stored.counted() == stored.actual() == (0, 0)
    assert stored.unfinished() == []


def test_an_interrupt_while_writing_leaves_nothing(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "writev", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stored.room.write([bytes(2 * MB), b"end"])
    assert stored.counted() == stored.actual() == (0, 0)


def test_a_room_without_a_store_counts_nothing(tmp_path: Path) -> None:
    room = Room(RoomSpec(str(tmp_path)))
    path = room.write([b"body"])
    assert room.used_bytes() == 4
    path.unlink()
    assert room.used_bytes() == 0
    room.recount()
    room.release(path)


def test_a_room_is_not_made_where_its_cluster_has_ended(tmp_path: Path) -> None:
    for spec in (
        RoomSpec(str(tmp_path / "gone" / "room")),
        RoomSpec(str(tmp_path / "room"), str(tmp_path / "gone" / "room")),
    ):
        with pytest.raises(FileNotFoundError):
            Room(spec)
    assert not (tmp_path / "gone").exists()


def test_rooms_of_one_process_do_not_take_each_others_files(stored: Stored) -> None:
    other = Room(stored.room.spec)
    paths = [room.write([bytes([n])]) for n, room in enumerate([stored.room, other] * 3)]
    assert [path.read_bytes() for path in paths] == [bytes([n]) for n in range(6)]


# -- letting go ----------------------------------------------------------------------------


def test_a_small_file_that_is_released_is_gone(stored: Stored) -> None:
    path = stored.store("a", bytes(1000))
    stored.room.release(path)
    assert not path.exists()
    assert stored.counted() == stored.actual() == (0, 0)


def test_a_file_can_be_released_twice(stored: Stored) -> None:
    path = stored.store("a", bytes(1000))
    stored.store("b", bytes(500))
    stored.room.release(path)
    stored.room.release(path)
    assert stored.counted() == stored.actual() == (500, 0)


def test_a_file_on_disk_that_is_released_is_gone(stored: Stored) -> None:
    path = stored.room.write([bytes(11 * MB)])
    stored.room.release(path)
    assert not path.exists()


def test_the_pages_of_a_large_file_are_written_again(stored: Stored) -> None:
    path = stored.store("a", bytes(2 * MB))
    inode = path.stat().st_ino
    stored.room.release(path)
    assert stored.counted() == stored.actual() == (0, 2 * MB)
    again = stored.store("b", b"b" * (2 * MB - 7))
    assert again.stat().st_ino == inode
    assert again.read_bytes() == b"b" * (2 * MB - 7)
    assert stored.counted() == stored.actual() == (2 * MB - 7, 0)


def test_a_larger_value_may_use_them_too(stored: Stored) -> None:
    path = stored.store("a", bytes(MB))
    inode = path.stat().st_ino
    stored.room.release(path)
    again = stored.store("b", b"b" * (3 * MB))
    assert again.stat().st_ino == inode
    assert again.read_bytes() == b"b" * (3 * MB)
    assert stored.counted() == stored.actual() == (3 * MB, 0)


def test_what_is_kept_is_given_up_when_room_is_needed(stored: Stored) -> None:
    stored.room.release(stored.store("a", bytes(2 * MB)))
    path = stored.store("b", bytes(9 * MB))
    assert stored.spill not in path.parents
    assert stored.counted() == stored.actual() == (9 * MB, 0)


def test_who_has_mapped_a_value_keeps_what_he_sees(stored: Stored) -> None:
    path = stored.store("a", b"a" * (2 * MB))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    stored.room.release(path)
    for number in range(5):
        stored.room.release(stored.store(str(number), b"b" * (2 * MB)))
    assert mapped[:] == b"a" * (2 * MB)
    mapped.close()
    assert stored.counted() == stored.actual()


def test_a_reader_meets_a_whole_value_or_none(stored: Stored) -> None:
    """Another process reads by name what this one lets go of and writes again."""
    reader = """
import mmap, os, sys
from cloudray.values.mapping import map_file
print("ready", flush=True)
seen = 0
while not os.path.exists(sys.argv[2]):
    try:
        descriptor = os.open(sys.argv[1], os.O_RDONLY)
    except FileNotFoundError:
        continue
    view = map_file(descriptor)
    os.close(descriptor)
    first, last = bytes(view[:4096]), bytes(view[-4096:])
    middle = bytes(view[len(view) // 2 :][:4096])
    assert set(first) == set(middle) == set(last) and len(set(first)) == 1, "a value changed"
    assert view[0] == view[-1]
    seen += 1
    del view
print(seen, flush=True)
"""
    path = stored.objects / "value"
    stop = stored.root / "stop"
    with subprocess.Popen(
        [sys.executable, "-c", reader, path, stop], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in range(200):
            stored.store("value", bytes([number]) * (2 * MB))
            stored.room.release(path)
        stored.store("value", bytes(2 * MB))
        stop.touch()
        seen = process.stdout.readline()
        assert process.wait(60) == 0
    assert int(seen) >= 0
    assert stored.counted() == stored.actual()


# -- what is killed ------------------------------------------------------------------------


def test_unfinished_files_of_a_process_are_swept(stored: Stored) -> None:
    stored.store("a", bytes(MB))

    def write() -> None:
        os.writev = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        stored.room.write([bytes(2 * MB), b"end"])

    child = forked(write)
    os.waitpid(child, 0)
    assert stored.counted() == (3 * MB + 3, 0)
    assert len(stored.unfinished()) == 1
    stored.room.sweep(child)
    assert stored.counted() == stored.actual() == (MB, 0)
    assert stored.unfinished() == []


def test_finished_files_are_swept_only_when_nobody_will_adopt_them(stored: Stored) -> None:
    path = stored.room.write([bytes(MB)])
    stored.room.sweep(os.getpid())
    assert path.exists()
    stored.room.sweep(os.getpid(), finished=True)
    assert not path.exists()
    assert stored.counted() == stored.actual() == (0, 0)


def test_files_of_all_that_have_ended_are_swept(stored: Stored) -> None:
    mine = stored.room.write([bytes(MB)])

    def write() -> None:
        stored.room.write([bytes(1000)])
        stored.room.write([bytes(11 * MB)])

    child = forked(write)
    os.waitpid(child, 0)
    assert len(list(mine.parent.iterdir())) == 2
    stored.room.sweep_dead()
    assert list(mine.parent.iterdir()) == [mine]
    assert list((stored.spill / "done").iterdir()) == []
    assert stored.counted() == stored.actual() == (MB, 0)


def test_files_of_other_processes_are_not_swept(stored: Stored) -> None:
    path = stored.room.write([bytes(MB)])
    stored.room.sweep(int(str(os.getpid())[:-1]), finished=True)
    assert path.exists()


def test_a_wrong_account_is_healed_by_counting(stored: Stored) -> None:
    stored.store("a", bytes(MB))
    stored.room.release(stored.store("b", bytes(2 * MB)))
    done = stored.room.write([bytes(1000)])
    stored.room.count(12345)
    stored.room.recount()
    assert stored.counted() == stored.actual() == (MB + 1000, 2 * MB)
    assert done.exists()


def test_nobody_is_refused_because_of_a_wrong_account(tmp_path: Path) -> None:
    stored = Stored(tmp_path, 10 * MB, disk=False)
    stored.room.count(10 * MB)
    stored.store("a", bytes(9 * MB))
    assert stored.counted() == stored.actual() == (9 * MB, 0)


def forked(work: Callable[[], None]) -> int:
    """Do work in a child; returns its pid."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        # It must never go on as a second pytest.
        os._exit(1)


def kill_at(number: int, work: Callable[[], None]) -> tuple[int, bool]:
    """Do work in a child that is killed at its n-th change of a file.

    Returns its pid, and whether it came so far.
    """
    calls = 0

    def counting(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **options)

        return call

    def work_off() -> None:
        for name in CHANGES:
            setattr(os, name, counting(getattr(os, name)))
        work()

    child = forked(work_off)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in {0, -signal.SIGKILL}
    return child, status != 0


@pytest.mark.parametrize("work", ["write", "write again", "release", "release small", "give up"])
def test_a_kill_between_any_two_instructions_loses_no_byte(tmp_path: Path, work: str) -> None:
    stored = Stored(tmp_path, 10 * MB)
    room = stored.room

    def do() -> None:
        match work:
            case "release":
                room.release(stored.objects / "large")
            case "release small":
                room.release(stored.objects / "small")
            case "give up":
                room.write([bytes(9 * MB)])
            case _:
                room.write([bytes(2 * MB), b"end"])

    number = 0
    killed = True
    while killed:
        number += 1
        for name, size_bytes in (("kept", 500), ("small", 1000), ("large", MB)):
            if not (stored.objects / name).exists():
                stored.store(name, name[:1].encode() * size_bytes)
        if work in {"write again", "give up"} and not room.spare_bytes():
            room.release(stored.store("again", bytes(2 * MB)))
        child, killed = kill_at(number, do)
        # Never too low: what is there is counted, so the quota holds.
        assert sum(stored.counted()) >= sum(stored.actual())
        room.sweep(child, finished=True)
        room.recount()
        assert stored.counted() == stored.actual()
        assert stored.unfinished() == []
        assert (stored.objects / "kept").read_bytes() == b"k" * 500
    assert number > 3


def test_many_processes_stay_within_the_quota(tmp_path: Path) -> None:
    stored = Stored(tmp_path, 12 * MB)
    children = [forked(partial(_use_at_random, stored, seed)) for seed in range(4)]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert stored.counted() == stored.actual()
    assert sum(stored.counted()) <= 12 * MB
    assert stored.unfinished() == []


def _use_at_random(stored: Stored, seed: int) -> None:
    rng = random.Random(seed)
    mine: dict[Path, bytes] = {}
    for number in range(60):
        if mine and rng.random() < 0.5:
            path = rng.choice(list(mine))
            body = mine.pop(path)
            assert path.read_bytes() == body
            stored.room.release(path)
            continue
        body = bytes([rng.randrange(256)]) * rng.choice([1000, MB, 2 * MB, 3 * MB + 5])
        path = stored.room.write([body[:100], body[100:]])
        if stored.spill not in path.parents:
            path = path.rename(stored.objects / f"{seed}-{number}")
        mine[path] = body
        with stored.room._account as account:
            assert account.used + account.spare <= 12 * MB
    for path, body in mine.items():
        assert path.read_bytes() == body


# -- the last bytes ------------------------------------------------------------------------


def test_kept_files_make_way_first_and_then_the_ballast(stored: Stored) -> None:
    stored.room.prepare()
    ballast = stored.root / ".tmp" / "room" / "ballast"
    stored.room.release(stored.store("a", bytes(2 * MB)))
    assert stored.room.make_way(vital=True)
    assert stored.counted() == (0, 0)
    assert ballast.exists()
    assert not stored.room.make_way(vital=False)
    assert stored.room.make_way(vital=True)
    assert not ballast.exists()
    assert not stored.room.make_way(vital=True)


def test_the_ballast_is_taken_again_when_bytes_come_back(stored: Stored) -> None:
    stored.room.prepare()
    assert stored.room.make_way(vital=True)
    stored.room.release(stored.store("a", bytes(10)))
    assert (stored.root / ".tmp" / "room" / "ballast").exists()
