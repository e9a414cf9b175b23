from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloudray.values import mapping
from cloudray.values.mapping import map_file

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


def mappings_of(descriptor: int) -> list[str]:
    """The mappings that this process has of a file, as Linux lists them."""
    inode = os.fstat(descriptor).st_ino
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if f" {inode} " in line]


def test_a_file_is_seen_as_it_is(descriptor: int) -> None:
    assert map_file(descriptor) == CONTENT
    assert map_file(descriptor, private=True) == CONTENT


def test_it_is_plain_bytes(descriptor: int) -> None:
    view = map_file(descriptor)
    assert (view.format, view.itemsize, view.ndim, view.nbytes) == ("B", 1, 1, len(CONTENT))
    assert view[1] == 1


def test_it_cannot_be_written(descriptor: int) -> None:
    view = map_file(descriptor)
    assert view.readonly
    with pytest.raises(TypeError, match="read-only"):
        view[0] = 1


def test_what_is_private_can_be_written_and_nobody_else_sees_it(
    descriptor: int, tmp_path: Path
) -> None:
    shared = map_file(descriptor)
    private, other = (map_file(descriptor, private=True) for _ in range(2))
    private[:3] = b"new"
    assert bytes(private[:4]) == b"new\3"
    assert shared == other == CONTENT
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_it_holds_no_descriptor(descriptor: int) -> None:
    before = psutil.Process().num_fds()
    views = [map_file(descriptor) for _ in range(50)]
    assert psutil.Process().num_fds() == before
    assert all(view == CONTENT for view in views)


def test_it_stays_when_the_file_is_closed_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    opened = os.open(path, os.O_RDONLY)
    view = map_file(opened)
    os.close(opened)
    path.unlink()
    assert view == CONTENT


def test_it_goes_with_the_last_view(descriptor: int) -> None:
    view: Any = map_file(descriptor)
    part = view[10:20]
    del view
    gc.collect()
    assert bytes(part) == CONTENT[10:20]
    assert len(mappings_of(descriptor)) == 1
    del part
    gc.collect()
    assert mappings_of(descriptor) == []


def test_an_empty_file_is_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    opened = os.open(path, os.O_RDONLY)
    try:
        assert (map_file(opened), map_file(opened, private=True)) == (b"", b"")
    finally:
        os.close(opened)


@pytest.mark.parametrize("private", [False, True])
def test_a_file_that_cannot_be_mapped_is_read(
    descriptor: int, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    def refuse(*_: object, **__: object) -> memoryview:
        raise OSError(errno.ENOMEM, "too many mappings")

    monkeypatch.setattr(mapping, "_map", refuse)
    view = map_file(descriptor, private=private)
    assert view == CONTENT
    assert view.readonly is not private


def test_what_the_system_refuses_says_why(tmp_path: Path) -> None:
    # A folder cannot be mapped.
    opened = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="cannot map 10 bytes") as raised:
            mapping._map(opened, 10, private=False)
        assert raised.value.errno == errno.ENODEV
    finally:
        os.close(opened)
