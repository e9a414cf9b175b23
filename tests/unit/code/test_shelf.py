"""A machine's unpacked archives: each is fetched once, and none goes that is in use."""

from __future__ import annotations

import asyncio
import compileall
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cloudray.code.archives import Archive, Item, pack
from cloudray.code.shelf import Shelf, UnfitError

PLENTY = 10_000_000


def archive(text: str = "A = 1", size_bytes: int = 0) -> Archive:
    return pack([Item("a.py", text.encode() + b"\n" * size_bytes)])


class Source:
    """Reads an archive, and counts how often."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.reads = 0

    async def read(self) -> bytes:
        self.reads += 1
        await asyncio.sleep(0.01)
        return self.archive.body

    async def held_by(self, shelf: Shelf) -> Path:
        return await shelf.hold(self.archive.digest, self.read)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "code"


@pytest.fixture
def shelf(folder: Path) -> Shelf:
    return Shelf(folder, PLENTY)


def run(work: Callable[[], Awaitable[object]]) -> None:
    async def wait() -> None:
        await work()

    asyncio.run(wait())


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_archive_is_unpacked_under_its_digest(shelf: Shelf, folder: Path) -> None:
    source = Source(archive())

    async def work() -> None:
        path = await source.held_by(shelf)
        assert path == folder / source.archive.digest
        assert (path / "a.py").read_text() == "A = 1"

    run(work)
    assert names_in(folder) == [source.archive.digest, f"{source.archive.digest}.lock"]


def test_all_who_want_it_at_once_wait_for_one_download(folder: Path) -> None:
    source = Source(archive())
    shelves = [Shelf(folder, PLENTY) for _ in range(3)]

    async def work() -> None:
        await asyncio.gather(*(source.held_by(shelf) for shelf in shelves * 3))

    run(work)
    assert source.reads == 1


def test_the_next_agent_finds_it(folder: Path) -> None:
    source = Source(archive())

    async def work() -> None:
        first = Shelf(folder, PLENTY)
        await source.held_by(first)
        first.close()
        await source.held_by(Shelf(folder, PLENTY))

    run(work)
    assert source.reads == 1


def test_a_download_that_fails_is_tried_again_by_the_next(shelf: Shelf) -> None:
    source = Source(archive())

    async def fail() -> bytes:
        raise OSError("away")

    async def work() -> None:
        with pytest.raises(OSError, match="away"):
            await shelf.hold(source.archive.digest, fail)
        assert (await source.held_by(shelf) / "a.py").exists()

    run(work)


def test_who_waits_for_a_download_that_fails_makes_its_own(folder: Path) -> None:
    source = Source(archive())
    begun = asyncio.Event()

    async def fail() -> bytes:
        begun.set()
        await asyncio.sleep(0.05)
        raise OSError("away")

    async def work() -> None:
        failing = asyncio.create_task(Shelf(folder, PLENTY).hold(source.archive.digest, fail))
        await begun.wait()
        assert (await source.held_by(Shelf(folder, PLENTY)) / "a.py").exists()
        with pytest.raises(OSError, match="away"):
            await failing

    run(work)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (archive("other").body, "its content is not that of"),
        (b"", "its content is not that of"),
    ],
)
def test_other_content_is_refused(shelf: Shelf, folder: Path, body: bytes, message: str) -> None:
    async def read() -> bytes:
        return body

    async def work() -> None:
        with pytest.raises(UnfitError, match=message):
            await shelf.hold(archive().digest, read)

    run(work)
    assert names_in(folder) == [f"{archive().digest}.lock"]


def test_an_unsafe_archive_is_refused_and_leaves_nothing(folder: Path) -> None:
    source = Source(archive("", 5000))

    async def work() -> None:
        with pytest.raises(UnfitError, match=r"refused: it unpacks to more than 1\.0 KB"):
            await source.held_by(Shelf(folder, 1000))

    run(work)
    assert names_in(folder) == [f"{source.archive.digest}.lock"]


def test_what_a_task_has_changed_is_made_anew(folder: Path) -> None:
    source = Source(archive())

    async def work() -> None:
        changes: tuple[Callable[[Path], object], ...] = (
            lambda path: (path / "a.py").write_text("A = 2"),
            lambda path: (path / "a.py").unlink(),
            lambda path: (path / "b.py").write_text(""),
        )
        for change in changes:
            shelf = Shelf(folder, PLENTY)
            path = await source.held_by(shelf)
            change(path)
            shelf.close()
        path = await source.held_by(Shelf(folder, PLENTY))
        assert [(one.name, one.read_text()) for one in path.iterdir()] == [("a.py", "A = 1")]

    run(work)
    assert source.reads == 4


def test_what_python_compiles_there_is_no_change(folder: Path) -> None:
    source = Source(archive())

    async def work() -> None:
        for _ in range(2):
            shelf = Shelf(folder, PLENTY)
            path = await source.held_by(shelf)
            compileall.compile_dir(path, quiet=1)
            assert (path / "__pycache__").is_dir()
            shelf.close()

    run(work)
    assert source.reads == 1


def test_what_was_changed_is_not_replaced_under_others_who_use_it(folder: Path) -> None:
    source = Source(archive())

    async def work() -> None:
        path = await source.held_by(Shelf(folder, PLENTY))
        (path / "a.py").write_text("A = 2")
        with pytest.raises(UnfitError, match="was changed"):
            await source.held_by(Shelf(folder, PLENTY))

    run(work)
    assert source.reads == 1


def test_the_least_recently_used_goes_when_room_is_needed(folder: Path) -> None:
    sources = [Source(archive(str(number), 1000)) for number in range(4)]

    async def work() -> None:
        shelf = Shelf(folder, 3 * 1100)
        for age, source in enumerate(sources[:3]):
            await source.held_by(shelf)
            shelf.let_go(source.archive.digest)
            os.utime(folder / f"{source.archive.digest}.lock", (age, age))
        await sources[0].held_by(shelf)
        await sources[3].held_by(shelf)

    run(work)
    left = {name for name in names_in(folder) if not name.endswith(".lock")}
    assert left == {sources[number].archive.digest for number in (0, 2, 3)}


def test_what_is_in_use_stays_though_there_is_no_room(folder: Path) -> None:
    sources = [Source(archive(str(number), 1000)) for number in range(3)]

    async def work() -> None:
        # Used by another agent, and twice by this one.
        await sources[0].held_by(Shelf(folder, 1100))
        shelf = Shelf(folder, 1100)
        for _ in range(2):
            await sources[1].held_by(shelf)
        shelf.let_go(sources[1].archive.digest)
        await sources[2].held_by(shelf)
        assert len([name for name in names_in(folder) if not name.endswith(".lock")]) == 3
        shelf.let_go(sources[1].archive.digest)
        shelf.trim()

    run(work)
    left = {name for name in names_in(folder) if not name.endswith(".lock")}
    assert left == {sources[number].archive.digest for number in (0, 2)}


def test_what_a_killed_agent_left_half_done_is_swept(folder: Path) -> None:
    digest = archive().digest
    program = f"""
import asyncio, os, sys
from pathlib import Path
from cloudray.code.shelf import Shelf
async def read():
    draft = Path({str(folder)!r}) / ".{digest}-1-abcd"
    draft.mkdir()
    (draft / "half").touch()
    os._exit(0)
asyncio.run(Shelf(Path({str(folder)!r}), 1).hold({digest!r}, read))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert f".{digest}-1-abcd" in names_in(folder)
    Shelf(folder, PLENTY)
    assert names_in(folder) == [f"{digest}.lock"]


def test_what_is_being_made_is_not_swept(folder: Path) -> None:
    source = Source(archive())

    async def read() -> bytes:
        draft = folder / f".{source.archive.digest}-1-abcd"
        draft.mkdir()
        Shelf(folder, PLENTY)
        assert draft.is_dir()
        return await source.read()

    run(lambda: Shelf(folder, PLENTY).hold(source.archive.digest, read))


def test_a_folder_that_others_can_enter_is_not_used(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="not this user's alone"):
        Shelf(folder, PLENTY)
