from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudray import platform
from cloudray.store.account import Account
from cloudray.store.spares import MOST, SMALLEST_BYTES, Spares

MB = SMALLEST_BYTES


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with Account(str(tmp_path / "account")) as account:
        yield account


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "spare"
    folder.mkdir()
    return folder


@pytest.fixture
def spares(folder: Path) -> Spares:
    return Spares(str(folder), 100 * MB)


def file(tmp_path: Path, size_bytes: int, name: str = "file") -> str:
    path = tmp_path / name
    path.touch()
    os.truncate(path, size_bytes)
    return str(path)


def sizes(spares: Spares) -> list[int]:
    return [size_bytes // MB for size_bytes, _ in spares.found()]


def keep(spares: Spares, account: Account, tmp_path: Path, *sizes_mb: int) -> list[bool]:
    kept = []
    for size_mb in sizes_mb:
        account.change(used=size_mb * MB)
        kept.append(spares.take_in(file(tmp_path, size_mb * MB), size_mb * MB, account))
    return kept


def test_a_file_that_nobody_uses_is_kept(spares: Spares, account: Account, tmp_path: Path) -> None:
    assert keep(spares, account, tmp_path, 3) == [True]
    assert sizes(spares) == [3]
    assert (account.used, account.spare) == (0, 3 * MB)
    assert not (tmp_path / "file").exists()


def test_a_file_that_is_open_elsewhere_is_not(
    spares: Spares, account: Account, tmp_path: Path
) -> None:
    path = file(tmp_path, 2 * MB)
    with open(path, "rb"):  # noqa: PTH123 - as a reader has it
        assert not spares.take_in(path, 2 * MB, account)
    assert spares.take_in(path, 2 * MB, account)


def test_a_file_that_is_mapped_is_not_although_its_descriptor_is_closed(
    spares: Spares, account: Account, tmp_path: Path
) -> None:
    path = file(tmp_path, 2 * MB)
    descriptor = os.open(path, os.O_RDONLY)
    mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    os.close(descriptor)
    assert not spares.take_in(path, 2 * MB, account)
    mapped.close()
    assert spares.take_in(path, 2 * MB, account)


def test_a_file_that_only_a_forked_child_still_maps_is_not(
    spares: Spares, account: Account, tmp_path: Path
) -> None:
    path = file(tmp_path, 2 * MB)
    descriptor = os.open(path, os.O_RDONLY)
    mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    os.close(descriptor)
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        # As a daemon does that closes what it inherited; its mapping stays.
        os.close(writable)
        os.dup2(readable, 0)
        os.closerange(3, 1000)
        os.read(0, 1)
        os._exit(0)
    os.close(readable)
    mapped.close()
    assert not spares.take_in(path, 2 * MB, account)
    os.close(writable)
    os.waitpid(child, 0)
    assert spares.take_in(path, 2 * MB, account)


def test_nothing_is_kept_where_the_system_cannot_tell(
    spares: Spares, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("fcntl.F_SETLEASE")
    assert keep(spares, account, tmp_path, 2) == [False]
    assert sizes(spares) == []


def test_a_stranger_who_opens_the_file_just_then_does_not_end_the_process(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        _ask_while_somebody_opens(file(tmp_path, MB))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def _ask_while_somebody_opens(path: str) -> None:
    ask = fcntl.fcntl

    def and_open(descriptor: int, command: int, argument: int) -> int:
        answer = ask(descriptor, command, argument)
        if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_WRLCK):
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return answer

    fcntl.fcntl = and_open  # type: ignore[assignment]
    platform.is_used_by_others(os.open(path, os.O_RDWR))


def test_the_smallest_that_has_room_is_taken(
    spares: Spares, account: Account, tmp_path: Path
) -> None:
    keep(spares, account, tmp_path, 2, 9, 5, 30)
    found = spares.fitting(4 * MB)
    assert found is not None
    assert found[0] == 5 * MB


def test_else_the_largest_there_is(spares: Spares, account: Account, tmp_path: Path) -> None:
    keep(spares, account, tmp_path, 2, 9)
    found = spares.fitting(20 * MB)
    assert found is not None
    assert found[0] == 9 * MB


def test_one_that_is_far_too_large_is_not_taken(
    spares: Spares, account: Account, tmp_path: Path
) -> None:
    keep(spares, account, tmp_path, 30)
    assert spares.fitting(4 * MB) is None


def test_small_values_take_none(spares: Spares, account: Account, tmp_path: Path) -> None:
    keep(spares, account, tmp_path, 1)
    assert spares.fitting(MB - 1) is None


def test_no_more_bytes_are_kept_than_allowed(
    spares: Spares, account: Account, tmp_path: Path
) -> None:
    assert keep(spares, account, tmp_path, 40, 30, 50, 101) == [True, True, True, False]
    assert sizes(spares) == [40, 50]
    assert account.spare == 90 * MB


def test_no_more_files_are_kept_than_allowed(
    folder: Path, account: Account, tmp_path: Path
) -> None:
    spares = Spares(str(folder), 10_000 * MB)
    keep(spares, account, tmp_path, *range(1, MOST + 6))
    assert len(sizes(spares)) == MOST
    assert sizes(spares)[0] == 6


def test_they_are_given_up_until_there_is_enough(
    spares: Spares, account: Account, tmp_path: Path
) -> None:
    keep(spares, account, tmp_path, 2, 9, 5, 30)
    assert spares.give_up(6 * MB, account) == 7 * MB
    assert sizes(spares) == [9, 30]
    assert account.spare == 39 * MB


def test_one_that_is_about_to_be_written_is_not_given_up(
    spares: Spares, account: Account, tmp_path: Path
) -> None:
    keep(spares, account, tmp_path, 2, 9)
    (_, smaller), _ = spares.found()
    assert spares.give_up(100 * MB, account, keep=smaller) == 9 * MB
    assert sizes(spares) == [2]
