from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloudray.values import libraries
from cloudray.values.codec import dumps, loads, loads_from
from cloudray.values.libraries import Writable, learn

HEADER = bytes(64)


class Tensor:
    """Memory that cannot be kept from being written, as torch has it."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        import pickle

        buffer = pickle.PickleBuffer(self.memory)
        libraries._marked.add(buffer)
        return Tensor, (buffer,)


@pytest.fixture
def _forgotten() -> Iterator[None]:
    """Whatever is learned in a test is forgotten after it."""
    known, reducers = set(libraries._KNOWN_LIBRARIES), dict(libraries.REDUCERS)
    yield
    libraries._KNOWN_LIBRARIES.clear()
    libraries._KNOWN_LIBRARIES.update(known)
    libraries.REDUCERS.clear()
    libraries.REDUCERS.update(reducers)


def in_file(value: object, folder: Path) -> str:
    path = folder / "object"
    path.write_bytes(b"".join((HEADER, *dumps(value).parts)))
    return str(path)


# -- memory that is written ----------------------------------------------------------------


def test_memory_that_may_be_written_comes_back_so_and_is_nobody_elses(tmp_path: Path) -> None:
    path = in_file([Tensor(bytearray(5000)), np.zeros(5000, np.uint8)], tmp_path)
    first, array = loads_from(path, len(HEADER))
    second, _ = loads_from(path, len(HEADER))
    assert not array.flags.writeable
    first.memory[10] = 1
    assert (first.memory[10], second.memory[10]) == (1, 0)
    assert loads_from(path, len(HEADER))[0].memory[10] == 0


def test_memory_that_may_be_written_is_copied_where_there_is_no_file() -> None:
    body = dumps(Tensor(bytearray(5000))).to_bytes()
    loads(body).memory[10] = 1
    assert loads(body).memory[10] == 0


def test_only_the_value_that_is_pickled_now_is_marked() -> None:
    with Writable() as outer:
        dumps(Tensor(bytearray(10)))
        assert outer == []
    libraries._marked.add(Any)  # type: ignore[arg-type] # nobody collects them


# -- what is learned -----------------------------------------------------------------------


@pytest.mark.usefixtures("_forgotten")
def test_a_library_is_learned_when_it_has_been_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[str] = []
    monkeypatch.setitem(libraries._LIBRARIES, "made_up", lambda: taught.append("made_up"))
    learn()
    assert taught == []
    monkeypatch.setitem(sys.modules, "made_up", types.ModuleType("made_up"))
    learn()
    learn()
    assert taught == ["made_up"]


@pytest.mark.usefixtures("_forgotten")
def test_a_library_that_is_being_loaded_is_learned_later(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("made_up")
    monkeypatch.setitem(sys.modules, "made_up", module)
    taught: list[str] = []
    monkeypatch.setitem(libraries._LIBRARIES, "made_up", lambda: taught.append(module.name))
    learn()
    module.name = "made_up"  # type: ignore[attr-defined]
    learn()
    assert taught == ["made_up"]


@pytest.mark.usefixtures("_forgotten")
def test_a_library_that_lacks_another_is_left_to_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def teach() -> None:
        tries.append(1)
        raise ImportError("there is no other")

    monkeypatch.setitem(sys.modules, "made_up", types.ModuleType("made_up"))
    monkeypatch.setitem(libraries._LIBRARIES, "made_up", teach)
    learn()
    learn()
    assert tries == [1]


# -- functions with a cache ----------------------------------------------------------------


def test_a_cached_function_has_a_cache_of_its_own_afterwards() -> None:
    @functools.lru_cache(maxsize=7, typed=True)
    def twice(number: int) -> int:
        """Two of them."""
        return 2 * number

    twice(1)
    after = loads(dumps(twice).to_bytes())
    assert after(4) == 8
    assert after.cache_info() == (0, 1, 7, 1)
    assert after.cache_parameters() == {"maxsize": 7, "typed": True}
    assert (after.__name__, after.__doc__, after.__wrapped__(4)) == ("twice", "Two of them.", 8)
    assert loads(dumps(after).to_bytes())(5) == 10


def test_a_cached_function_of_a_module_stays_the_modules() -> None:
    assert loads(dumps(functools.cache).to_bytes()) is functools.cache
    from fnmatch import _compile_pattern as cached  # type: ignore[attr-defined]

    assert loads(dumps(cached).to_bytes()) is cached


# -- arrays --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "copied"),
    [
        (np.arange(9000), False),
        (np.asfortranarray(np.arange(9000).reshape(90, 100)), False),
        (np.arange(9000).reshape(9, 10, 100).transpose(1, 0, 2), False),
        (np.arange(9000).astype("M8[s]"), False),
        (np.arange(9000)[::2], True),
        (np.arange(9000)[::-1], True),
        (np.arange(9000).astype("M8[s]")[::2], True),
    ],
    ids=["C", "Fortran", "axes swapped", "dates", "gaps", "backwards", "dates with gaps"],
)
def test_only_arrays_with_gaps_are_copied(array: Any, copied: bool) -> None:
    (part,) = (part for part in dumps(array).parts if len(part) == array.nbytes)
    assert np.shares_memory(np.frombuffer(part, np.uint8), array.view()) is not copied
