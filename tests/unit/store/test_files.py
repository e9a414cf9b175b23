from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cloudray.store import Body, StoreError, StoreFullError, TransientStoreError, files
from cloudray.store.files import explain, read_range, write_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def short_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the kernel stop each write after at most seven bytes; remember how much it took."""
    taken: list[int] = []
    write, writev = os.write, os.writev

    def stopping(descriptor: int, data: bytes) -> int:
        taken.append(write(descriptor, data[:7]))
        return taken[-1]

    def stopping_too(descriptor: int, views: Sequence[memoryview]) -> int:
        taken.append(write(descriptor, b"".join(views)[:7]) if views else writev(descriptor, views))
        return taken[-1]

    monkeypatch.setattr(os, "write", stopping)
    monkeypatch.setattr(os, "writev", stopping_too)
    return taken


@pytest.mark.parametrize(
    "body",
    [
        bytes(range(50)),
        bytearray(range(50)),
        [bytes(range(3)), bytes(range(3, 7)), bytes(range(7, 45)), b"", bytes(range(45, 50))],
        [memoryview(bytes(range(48))).cast("Q"), b"01"],
    ],
    ids=["bytes", "bytearray", "several", "numbers"],
)
def test_a_write_that_stops_short_goes_on(
    descriptor: int, path: Path, short_writes: list[int], body: Body
) -> None:
    write_all(descriptor, body)
    written = path.read_bytes()
    assert written[:48] == bytes(range(48))
    assert len(written) == 50
    assert short_writes == [7] * 7 + [1]


def test_more_buffers_than_one_call_takes_are_written(descriptor: int, path: Path) -> None:
    buffers = [b"%05d" % number for number in range(os.sysconf("SC_IOV_MAX") * 2 + 5)]
    write_all(descriptor, buffers)
    assert path.read_bytes() == b"".join(buffers)


def test_a_read_that_stops_short_goes_on(
    descriptor: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(bytes(range(50)))
    monkeypatch.setattr(files, "_CALL_BYTES", 7)
    assert read_range(descriptor, 0, None) == bytes(range(50))
    assert read_range(descriptor, 3, 40) == bytes(range(3, 40))


def test_a_file_that_shrinks_while_it_is_read_ends(
    descriptor: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"0123456789")
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    assert read_range(descriptor, 0, None) == b""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_full(number: int) -> None:
    error = explain(OSError(number, os.strerror(number)), "/store", "writing key")
    assert type(error) is StoreFullError
    assert str(error).startswith("no space left in /store while writing key")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_what_may_pass_is_transient(number: int) -> None:
    error = explain(OSError(number, "trouble"), "/store", "reading key")
    assert type(error) is TransientStoreError
    assert str(error) == "reading key in /store failed: trouble"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_refused_link_means_a_filesystem_without_links(number: int) -> None:
    error = explain(OSError(number, "no", "temp", None, "key"), "/store", "creating key")
    assert "no hard links. Use a directory on one that has" in str(error)


def test_any_other_refusal_does_not_blame_the_filesystem() -> None:
    for error in (
        explain(PermissionError(errno.EPERM, "no", "temp"), "/store", "creating key"),
        explain(PermissionError(errno.EPERM, "no", "temp", None, "key"), "/store", "writing key"),
        explain(PermissionError(errno.EACCES, "no", "temp"), "/store", "writing key"),
    ):
        assert type(error) is StoreError
        assert str(error).endswith("Check that /store is ours to write.")
