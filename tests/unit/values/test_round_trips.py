"""Every value that people have comes back, or is refused with a reason."""

from __future__ import annotations

import asyncio
import contextvars
import mmap
import os
import pickle
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cloudray.values.codec import LARGE_BYTES, dumps, loads, loads_from
from tests.specimens import SPECIMENS, Frozen, Specimen

HEADER = bytes(64)


def written(value: object, folder: Path) -> str:
    """A value in a file, as stores have it."""
    path = folder / "object"
    path.write_bytes(b"".join((HEADER, *dumps(value).parts)))
    return str(path)


def by_name(specimen: Specimen) -> str:
    return specimen.name


# -- what comes back -----------------------------------------------------------------------


@pytest.mark.parametrize("specimen", SPECIMENS, ids=by_name)
def test_a_value_comes_back(specimen: Specimen) -> None:
    serialized = dumps(specimen.make())
    body = serialized.to_bytes()
    assert len(body) == serialized.size_bytes
    assert specimen.is_same(specimen.make(), loads(body))


@pytest.mark.parametrize("specimen", SPECIMENS, ids=by_name)
def test_a_value_comes_back_from_a_file(specimen: Specimen, tmp_path: Path) -> None:
    path = written(specimen.make(), tmp_path)
    after = loads_from(path, len(HEADER))
    os.unlink(path)  # noqa: PTH108 - what is mapped stays
    assert specimen.is_same(specimen.make(), after)


@pytest.mark.parametrize("specimen", SPECIMENS, ids=by_name)
def test_a_value_comes_back_in_a_container(specimen: Specimen) -> None:
    before = {"inner": [specimen.make(), Frozen(1, specimen.make())]}
    first, second = loads(dumps(before).to_bytes())["inner"]
    assert specimen.is_same(specimen.make(), first)
    assert specimen.is_same(specimen.make(), second.inner)


def test_names_of_specimens_are_unique() -> None:
    assert len({specimen.name for specimen in SPECIMENS}) == len(SPECIMENS)


# -- copies --------------------------------------------------------------------------------


def test_large_bytes_are_not_copied_when_they_are_serialized() -> None:
    value = bytes(20 * LARGE_BYTES)
    for whole in (value, [value], {"key": (1, value)}):
        assert any(part is value for part in dumps(whole).parts)


def test_a_large_bytearray_is_not_copied_when_it_is_serialized() -> None:
    value = bytearray(20 * LARGE_BYTES)
    assert any(part is value for part in dumps([value]).parts)


def test_a_bytearray_that_was_read_is_ones_own(tmp_path: Path) -> None:
    value = bytearray(20 * LARGE_BYTES)
    path = written([value], tmp_path)
    (after,) = loads_from(path, len(HEADER))
    after[0] = 1
    after.extend(b"more")
    assert loads_from(path, len(HEADER)) == [value]


def test_an_array_with_gaps_is_read_without_a_copy(tmp_path: Path) -> None:
    array = np.arange(100_000).reshape(100, 1000)[:, ::2]
    after = loads_from(written(array, tmp_path), len(HEADER))
    np.testing.assert_array_equal(after, array)
    assert (after.flags.owndata, after.flags.writeable) == (False, False)


def test_many_buffers_are_few_parts() -> None:
    arrays = [np.full(10, number) for number in range(10_000)]
    serialized = dumps(arrays)
    assert len(serialized.parts) < 10
    after = loads(serialized.to_bytes())
    assert all(np.array_equal(one, two) for one, two in zip(arrays, after, strict=True))


def test_many_large_buffers_are_written_by_more_than_one_call(tmp_path: Path) -> None:
    arrays = [np.full(LARGE_BYTES // 8, number) for number in range(2 * os.sysconf("SC_IOV_MAX"))]
    after = loads_from(written(arrays, tmp_path), len(HEADER))
    assert all(np.array_equal(one, two) for one, two in zip(arrays, after, strict=True))


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
def test_buffers_stay_aligned_whatever_is_joined(size: int, tmp_path: Path) -> None:
    arrays = [np.zeros(size, np.uint8), np.zeros(1, np.uint8), np.zeros(size, np.uint8)]
    for array in loads_from(written(arrays, tmp_path), len(HEADER)):
        assert array.__array_interface__["data"][0] % 64 == 0


def test_an_array_of_five_gigabytes_is_laid_out_and_found(tmp_path: Path) -> None:
    # Pages that nobody touches are no memory, and a hole in a file is no disk.
    size_bytes = 5 << 30
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
    serialized = dumps(np.frombuffer(mmap.mmap(-1, size_bytes, flags=flags), np.uint8))
    head, body = serialized.parts
    assert len(body) == size_bytes
    assert serialized.size_bytes == len(head) + size_bytes
    path = tmp_path / "object"
    path.write_bytes(HEADER + bytes(head))
    os.truncate(path, len(HEADER) + serialized.size_bytes)
    after = loads_from(str(path), len(HEADER))
    assert after.nbytes == size_bytes
    assert after[-1] == 0


# -- memory that is mapped -----------------------------------------------------------------


def test_values_that_are_kept_hold_no_descriptors(tmp_path: Path) -> None:
    path = written(np.zeros(10_000), tmp_path)
    before = psutil.Process().num_fds()
    kept = [loads_from(path, len(HEADER)) for _ in range(100)]
    assert psutil.Process().num_fds() == before
    assert all(array.nbytes == 80_000 for array in kept)


# -- what does not come back ---------------------------------------------------------------


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> None:
    pass


class Reversed:
    """Hands pickle a buffer that has gaps."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(memoryview(bytes(10))[::2]),)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "generator": (generator, "a generator"),
    "lock": (threading.Lock, "a _thread.lock"),
    "condition": (threading.Condition, "a _thread.RLock"),
    "thread": (lambda: threading.Thread(target=print), "a _thread"),
    "thread-local data": (threading.local, "a _thread._local"),
    "file that is written": (lambda: open(os.devnull, "w"), "a _io.TextIOWrapper"),  # noqa: SIM115, PTH123
    "binary file": (lambda: open(os.devnull, "rb"), "a _io.BufferedReader"),  # noqa: SIM115, PTH123
    "socket": (socket.socket, "a socket.socket"),
    "weak reference": (lambda: weakref.ref(Frozen), "a weakref.ReferenceType"),
    "context variable": (lambda: contextvars.ContextVar("variable"), "ContextVar"),
    "event loop": (asyncio.new_event_loop, "a "),
    "frame": (sys._getframe, "a frame"),
    "buffer with gaps": (Reversed, "a tests.unit.values.test_round_trips.Reversed"),
}


@pytest.fixture
def closing() -> Iterator[list[Any]]:
    """What is put in here is closed after the test."""
    opened: list[Any] = []
    yield opened
    for one in opened:
        if hasattr(one, "close"):
            one.close()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_travel_is_refused_by_name(name: str, closing: list[Any]) -> None:
    make, named = REFUSED[name]
    value = make()
    closing.append(value)
    with pytest.raises(TypeError) as raised:
        dumps({"inner": [value]}, "the value")
    assert str(raised.value).startswith("cannot pickle the value: its member ['inner'][0]")
    assert named in str(raised.value)


def test_a_coroutine_is_refused_and_to_be_awaited(closing: list[Any]) -> None:
    value = coroutine()
    closing.append(value)
    with pytest.raises(TypeError, match="Await it"):
        dumps(value)


def test_a_buffer_with_gaps_is_refused_with_the_reason() -> None:
    with pytest.raises(TypeError, match="non-contiguous buffer"):
        dumps(Reversed())
