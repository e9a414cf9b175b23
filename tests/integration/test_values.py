"""Values on their way through a cluster: as they were, and copied no more than needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import cloudray as ray
from cloudray.protocol.batching import MAX_BATCH_BYTES, MAX_INLINE_BYTES
from cloudray.values.codec import dumps
from tests.buckets import cluster_in_bucket
from tests.integration.clusters import Embedded
from tests.integration.gates import meet
from tests.integration.programs import run_program
from tests.mappings import Mapping, mapping_of
from tests.specimens import SPECIMENS, Specimen

#: Large enough to be a file, small enough to be written many times.
LARGE_BYTES = 3_000_000


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def raise_it(error: BaseException) -> None:
    raise error


def by_name(specimen: Specimen) -> str:
    return specimen.name


# -- round trips ---------------------------------------------------------------------------


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("specimen", SPECIMENS, ids=by_name)
def test_a_value_comes_back(specimen: Specimen) -> None:
    before = specimen.make()
    ref = ray.put(before)
    refs = [ref, same.remote(before), same.remote(ref)]
    (inside,) = ray.get(same.remote([before]))
    for after in [*ray.get(refs), inside]:
        assert specimen.is_same(specimen.make(), after)


ERRORS = [specimen for specimen in SPECIMENS if isinstance(specimen.make(), Exception)]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("specimen", ERRORS, ids=by_name)
def test_an_exception_that_a_task_raises_comes_back(specimen: Specimen) -> None:
    error = specimen.make()
    with pytest.raises(ray.exceptions.RayTaskError) as raised:
        ray.get(raise_it.options(max_retries=0).remote(error))
    assert specimen.is_same(error, raised.value.cause)


def with_size(size_bytes: int) -> bytes:
    """Bytes whose serialized form has this size."""
    overhead = dumps(bytes(size_bytes)).size_bytes - size_bytes
    value = bytes(size_bytes - overhead)
    assert dumps(value).size_bytes == size_bytes
    return value


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
@pytest.mark.parametrize("limit", [MAX_INLINE_BYTES, MAX_BATCH_BYTES])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_values_around_each_threshold_come_back(limit: int, more: int) -> None:
    value = with_size(limit + more)
    refs = [same.remote(value), same.remote(ray.put(value)), same.remote(value)]
    assert ray.get(refs) == [value] * 3


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_many_values_just_below_the_threshold_fill_several_batches() -> None:
    value = with_size(MAX_INLINE_BYTES - 1_000)
    refs = [same.remote(value) for _ in range(3 * MAX_BATCH_BYTES // MAX_INLINE_BYTES)]
    assert all(after == value for after in ray.get(refs))


MAIN = """
import abc, dataclasses, enum, functools
import cloudray as ray

class Base(abc.ABC):
    made = []
    def __init__(self, size):
        self.size = size
    @abc.abstractmethod
    def area(self): ...
    @classmethod
    def of(cls, size):
        return cls(size)

class Square(Base):
    def __init__(self, size):
        super().__init__(size)
    def area(self):
        return self.size ** 2
    @property
    def side(self):
        return self.size
    def __eq__(self, other):
        return type(other) is type(self) and other.size == self.size

class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()

@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2

class TooLargeError(ValueError):
    def __init__(self, *, size):
        super().__init__(f"{size} is too large")
        self.size = size
    def __reduce__(self):
        return functools.partial(TooLargeError, size=self.size), ()

@functools.cache
def fibonacci(number):
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)

@ray.remote
def grow(square, point, access):
    assert isinstance(square, Square) and access is Access.READ
    assert Square.of(3).area() == 9
    return Square(square.side + 1), dataclasses.replace(point, x=fibonacci(50))

@ray.remote
def fail():
    raise TooLargeError(size=3)

ray.init(num_cpus=1)
square, point = ray.get(grow.remote(Square(1), Point(1), Access.READ))
print(square == Square(2), type(square) is Square, point)
try:
    ray.get(fail.remote())
except TooLargeError as error:
    print(error.cause.size, type(error.cause) is TooLargeError)
print(ray.get(ray.put(Square)) is Square, ray.get(ray.put(Access.WRITE)) is Access.WRITE)
ray.shutdown()
"""


def test_what_a_program_defines_itself_comes_back(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(MAIN)
    assert run_program([sys.executable, program]).splitlines() == [
        "True True Point(x=12586269025, y=2)",
        "3 True",
        "True True",
    ]


# -- copies --------------------------------------------------------------------------------


@ray.remote
def look_at(array: Any, folder: Path, number: int, count: int) -> tuple[Mapping, int]:
    """Show where an argument lies, once all who are to look have come."""
    meet(folder, str(number), *map(str, range(count)))
    return mapping_of(array), int(array.sum())


@ray.remote
def ones(size: int) -> Any:
    return np.ones(size, np.uint8)


@ray.remote
def get_it(refs: list[Any]) -> Mapping:
    return mapping_of(ray.get(refs[0]))


def files_of(cluster: Embedded, size_bytes: int) -> list[Path]:
    """The files of the cluster that are large enough to hold so much."""
    return [
        path
        for path in cluster.folder.rglob("*")
        if path.is_file() and path.stat().st_size >= size_bytes
    ]


def looked_at(argument: Any, executors: int, tmp_path: Path) -> list[tuple[Mapping, int]]:
    """What tasks say of their argument that run in so many executors at the same time."""
    return ray.get([look_at.remote(argument, tmp_path, n, executors) for n in range(executors)])


def test_all_executors_map_the_one_file_of_an_array(own_cluster: Any, tmp_path: Path) -> None:
    cluster = own_cluster(num_cpus=4)
    array = np.ones(100_000_000, np.uint8)
    ref = ray.put(array)
    (file,) = files_of(cluster, array.nbytes)
    seen = looked_at(ref, 4, tmp_path)
    assert len({mapping.pid for mapping, _ in seen}) == 4
    mine = mapping_of(ray.get(ref))
    assert {mapping.inode for mapping, _ in seen} == {mine.inode}
    assert {mapping.permissions for mapping, _ in seen} == {mine.permissions} == {"r--s"}
    assert mine.inode[1] == file.stat().st_ino
    assert [total for _, total in seen] == [array.nbytes] * 4
    assert files_of(cluster, array.nbytes) == [file]


@pytest.mark.usefixtures("cluster")
def test_an_argument_that_is_passed_by_value_is_mapped_too() -> None:
    array = np.ones(LARGE_BYTES, np.uint8)
    mapping = ray.get(ray.remote(mapping_of).remote(array))
    assert mapping.permissions == "r--s"
    assert mapping.pid != os.getpid()


def test_a_result_is_mapped_by_who_gets_it(own_cluster: Any) -> None:
    cluster = own_cluster(num_cpus=1)
    ray.get(ones.remote(1))
    agent = psutil.Process(cluster.agent)
    before_bytes = agent.memory_info().rss
    refs = [ones.remote(50_000_000) for _ in range(3)]
    arrays = ray.get(refs)
    assert {mapping_of(array).permissions for array in arrays} == {"r--s"}
    inodes = {mapping_of(array).inode[1] for array in arrays}
    assert inodes == {file.stat().st_ino for file in files_of(cluster, 50_000_000)}
    # Who hands on 150 MB without reading them needs none of it.
    assert agent.memory_info().rss - before_bytes < 25_000_000


def test_a_result_is_mapped_by_the_next_task(tmp_path: Path, own_cluster: Any) -> None:
    cluster = own_cluster(num_cpus=2)
    ref = ones.remote(LARGE_BYTES)
    ray.wait([ref])
    (file,) = files_of(cluster, LARGE_BYTES)
    seen = looked_at(ref, 2, tmp_path)
    assert {mapping.inode[1] for mapping, _ in seen} == {file.stat().st_ino}


def test_what_a_task_gets_is_mapped(own_cluster: Any) -> None:
    cluster = own_cluster(num_cpus=2)
    ref = ray.put(np.ones(LARGE_BYTES, np.uint8))
    (file,) = files_of(cluster, LARGE_BYTES)
    assert ray.get(get_it.remote([ref])).inode[1] == file.stat().st_ino


@pytest.mark.usefixtures("cluster")
def test_who_passes_a_large_array_again_and_again_is_told_of_put() -> None:
    array = np.zeros(40 << 20, np.uint8)
    nothing = ray.remote(lambda _: None)
    refs = [nothing.remote(array) for _ in range(2)]
    with pytest.warns(UserWarning, match=r"argument of 42 MB .* 3 times.*cloudray\.put") as told:
        refs.append(nothing.remote(array))
    assert [warning.filename for warning in told] == [__file__]
    refs.append(nothing.remote(array))
    ref = ray.put(array)
    refs += [nothing.remote(ref) for _ in range(10)]
    assert ray.get(refs) == [None] * 14


# -- a store without files -----------------------------------------------------------------


def test_executors_map_the_one_download_of_a_value(no_cluster: None, tmp_path: Path) -> None:
    del no_cluster
    array = np.ones(20_000_000, np.uint8)
    with cluster_in_bucket(tmp_path, "--num-cpus", "2") as address:
        ray.init(address=address)
        ref = ray.put(array)
        seen = [*looked_at(ref, 2, tmp_path), *ray.get([look_at.remote(ref, tmp_path, 0, 1)])]
        got = ray.get(get_it.remote([ref]))
        result = ray.get(ones.remote(array.nbytes))
        ray.shutdown()
    assert len({mapping.pid for mapping, _ in seen}) == 2
    assert {mapping.inode for mapping, _ in seen} == {got.inode}
    assert {mapping.permissions for mapping, _ in seen} == {"r--s"}
    assert [total for _, total in seen] == [array.nbytes] * 3
    assert np.array_equal(result, array)
    assert got.file.startswith("/")
    assert not Path(got.file).parent.exists()


# -- how long values last ------------------------------------------------------------------


@pytest.mark.usefixtures("cluster")
@pytest.mark.buckets
def test_what_was_got_outlives_its_ref_and_what_is_stored_after_it() -> None:
    kept = []
    for number in range(30):
        ref = ray.put(np.full(LARGE_BYTES, number, np.uint8))
        kept.append(ray.get(ref))
        kept.append(ray.get(same.remote(ref)))
        del ref
    assert [int(array[0]) for array in kept] == [number // 2 for number in range(60)]
    assert all(array.min() == array.max() for array in kept)


def test_what_was_got_outlives_the_cluster(own_cluster: Any) -> None:
    cluster = own_cluster(num_cpus=1)
    array = ray.get(ray.put(np.arange(LARGE_BYTES)))
    result = ray.get(ones.remote(LARGE_BYTES))
    cluster.end()
    assert int(array[-1]) == LARGE_BYTES - 1
    assert int(result.sum()) == LARGE_BYTES


@pytest.mark.usefixtures("cluster")
def test_a_bytearray_that_was_got_is_ones_own() -> None:
    ref = ray.put(bytearray(LARGE_BYTES))
    first = ray.get(ref)
    first[0] = 1
    first.extend(b"more")
    assert ray.get(ref) == bytearray(LARGE_BYTES)
