"""Values that people have, and what must be true of each when it has come back.

Their classes and functions live here, where every process can import them, or in `UNKNOWN`, a
module that nobody can import: those travel by value, as do those of `__main__`.
"""

from __future__ import annotations

import abc
import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import itertools
import mmap
import operator
import pathlib
import pickle
import re
import string
import tempfile
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

T = TypeVar("T")

_UNKNOWN_SOURCE = '''
import abc, dataclasses, enum, functools
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
OFFSET = 100

class Base(abc.ABC):
    made = 0
    def __init__(self, size):
        self.size = size
    @abc.abstractmethod
    def area(self):
        """How large it is."""
    def tell(self):
        return f"{type(self).__name__} of {self.size}"

class Square(Base):
    def __init__(self, size, colour="red"):
        super().__init__(size)
        self.colour = colour
    def area(self):
        return self.size**2
    def tell(self):
        return super().tell() + ", " + self.colour
    @property
    def side(self):
        return self.size
    @side.setter
    def side(self, size):
        self.size = size
    @classmethod
    def unit(cls):
        return cls(1)
    @staticmethod
    def twice(number):
        return 2 * number
    def __eq__(self, other):
        return isinstance(other, Square) and vars(self) == vars(other)
    __hash__ = None

class Box(Generic[T]):
    def __init__(self, item):
        self.item = item

class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2

class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()

class Pair(NamedTuple):
    first: int
    second: str = "two"

@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    def moved(self):
        return dataclasses.replace(self, x=self.x + 1)

class WrongSizeError(ValueError):
    def __init__(self, *, size, unit="m"):
        super().__init__(f"{size} {unit} is too much")
        self.size = size
        self.unit = unit
    def __reduce__(self):
        return _again, (type(self), self.size, self.unit)

def _again(kind, size, unit):
    return kind(size=size, unit=unit)

def factorial(number):
    return 1 if number < 2 else number * factorial(number - 1)

@functools.lru_cache(maxsize=500)
def fibonacci(number):
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)

def is_even(number):
    return number == 0 or is_odd(number - 1)

def is_odd(number):
    return number != 0 and is_even(number - 1)

def with_global(number):
    return number + OFFSET

def counter(start):
    count = start
    def step(by=1, *, factor=1):
        nonlocal count
        count += by * factor
        return count
    return step
'''

UNKNOWN: Any = types.ModuleType("a_module_that_nobody_can_import")
_CODE = compile(_UNKNOWN_SOURCE, UNKNOWN.__name__, "exec", dont_inherit=True)
exec(_CODE, vars(UNKNOWN))  # noqa: S102 - as a notebook does with its cells


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> int: ...


class Square(Shape):
    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def area(self) -> int:
        return self.size**2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Square) and other.size == self.size

    __hash__ = None  # type: ignore[assignment]


class Pair(NamedTuple):
    first: int
    second: Any


class Record(msgspec.Struct, frozen=True):
    number: int
    name: str = ""


@dataclasses.dataclass
class Plain:
    number: int
    names: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    number: int
    inner: Any = None


class Box(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and other.item == self.item

    __hash__ = None  # type: ignore[assignment]


class NeedsKeywordError(Exception):
    """Its constructor cannot be called with `args`, so pickle has to be told how."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self) -> Any:
        return functools.partial(NeedsKeywordError, code=self.code), ()


class SlottedError(Exception):
    __slots__ = ("code",)

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


class Image:
    """As PIL's images: its pixels travel beside the pickle, where there is a protocol for that."""

    def __init__(self, size: tuple[int, int], pixels: Any) -> None:
        self.size = size
        self.pixels = pixels

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol < 5:
            return Image, (self.size, bytes(self.pixels))
        return Image, (self.size, pickle.PickleBuffer(self.pixels))


class Vector(np.ndarray[Any, Any]):
    """A subclass of NumPy's array."""


@functools.cache
def double(number: int) -> int:
    return 2 * number


class Told:
    """Has its state by `__getstate__`, without what cannot travel."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.open = open  # stands for what is made anew

    def __getstate__(self) -> dict[str, Any]:
        return {"number": self.number}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["number"])  # type: ignore[misc]


Check = Callable[[Any, Any], bool]


class Specimen(NamedTuple):
    """How to make a value, and whether what came back is as good as what went."""

    name: str
    make: Callable[[], Any]
    is_same: Check


def _equal(before: Any, after: Any) -> bool:
    return type(before) is type(after) and bool(before == after)


def _same_array(before: Any, after: Any) -> bool:
    return (
        type(after) is type(before)
        and after.dtype == before.dtype
        and after.shape == before.shape
        and np.array_equal(after, before, equal_nan=before.dtype.kind in "fcmM")
    )


def _read_only(before: Any, after: Any) -> bool:
    return _same_array(before, after) and not after.flags.writeable and not after.flags.owndata


def _masked(before: Any, after: Any) -> bool:
    return bool(
        np.array_equal(after.mask, before.mask)
        and np.array_equal(after.data, before.data)
        and after.fill_value == before.fill_value
    )


def _calls(*calls: Callable[[Any], Any]) -> Check:
    """The same answers, before and after."""
    return lambda before, after: all(call(before) == call(after) for call in calls)


def _says(*names: str) -> Check:
    """An exception of the same class, message and attributes."""

    def same(before: Any, after: Any) -> bool:
        return (
            type(after).__qualname__ == type(before).__qualname__
            and str(after) == str(before)
            and all(getattr(after, name) == getattr(before, name) for name in names)
        )

    return same


def _memmap() -> Any:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(range(200)))
        file.flush()
        return np.memmap(file, dtype=np.uint8, mode="r")


def _anonymous_map() -> bytes:
    with mmap.mmap(-1, 4096) as memory:
        memory[:4] = b"data"
        return bytes(memory)


def _twice() -> Any:
    one = np.arange(1000)
    return [one, {"again": one}, (one,)]


def _with_view(whole: Any) -> Any:
    return [whole, whole[2:4]]


def _resized(square: Any) -> Any:
    square.side = 5
    return square.area()


def _endless() -> Any:
    items: list[Any] = [1]
    items.append(items)
    ring: dict[str, Any] = {"items": items}
    ring["self"] = ring
    return ring


def _deep() -> Any:
    value: Any = "bottom"
    for number in range(100):
        value = {number: value, "list": [value]} if number % 3 == 0 else [value]
    return value


def _bottom(value: Any) -> Any:
    while not isinstance(value, str):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value


def _group() -> ExceptionGroup[Any]:
    return ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [KeyError("k")])])


def _noted() -> Exception:
    error = OSError(2, "No such file", "name")
    error.add_note("a note")
    return error


_ARRAYS: dict[str, Callable[[], Any]] = {
    "C order": lambda: np.arange(12.0).reshape(3, 4),
    "Fortran order": lambda: np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "axes swapped": lambda: np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": lambda: np.arange(100)[::3],
    "a column": lambda: np.arange(20).reshape(4, 5)[:, 1:3],
    "backwards": lambda: np.arange(10)[::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(3), (4, 3)),
    "of records": lambda: np.array([(1, 2.5, "a")], dtype="i4,f8,U3"),
    "aligned records": lambda: np.zeros(
        3, np.dtype({"names": ["a"], "formats": ["f8"]}, align=True)
    ),
    "dates": lambda: np.array(["2024-02-29", "NaT"], "datetime64[ns]").astype("datetime64[D]"),
    "one date": lambda: np.array("2024-02-29", "datetime64[h]"),
    "every other date": lambda: np.arange("2024-01", "2024-12", dtype="datetime64[M]")[::2],
    "durations": lambda: np.arange(3).astype("timedelta64[s]"),
    "big-endian": lambda: np.arange(5, dtype=">i4"),
    "float16": lambda: np.array([1.5, np.nan, np.inf], np.float16),
    "complex": lambda: np.array([1 + 2j, np.nan]),
    "booleans": lambda: np.array([True, False]),
    "text": lambda: np.array(["short", "a longer one"]),
    "bytes": lambda: np.array([b"ab", b"c"]),
    "read-only": lambda: _frozen(np.arange(5)),
    "large": lambda: np.arange(200_000),
}


def _frozen(array_: Any) -> Any:
    array_.flags.writeable = False
    return array_


_EQUAL: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a large int": lambda: 10**1000,
    "nan in a tuple": lambda: (float("inf"), -0.0),
    "text with surrogates": lambda: "\ud800 ä 🐍",
    "large text": lambda: "ä" * 200_000,
    "bytes": lambda: b"",
    "large bytes": lambda: bytes(range(256)) * 1000,
    "bytearray": lambda: bytearray(b"abc"),
    "large bytearray": lambda: bytearray(range(256)) * 1000,
    "bytes in a list": lambda: [bytes(5000), bytearray(5000), "x" * 5000],
    "mapped bytes": _anonymous_map,
    "array.array": lambda: array.array("d", [1.0, 2.0]),
    "large array.array": lambda: array.array("q", range(100_000)),
    "range and slice": lambda: (range(3, 9, 2), slice(1, None)),
    "sets": lambda: ({1, "a"}, frozenset({b"b"})),
    "OrderedDict": lambda: collections.OrderedDict(b=1, a=2),
    "defaultdict": lambda: collections.defaultdict(list, a=[1]),
    "Counter": lambda: collections.Counter("abca"),
    "deque": lambda: collections.deque([1, 2], maxlen=5),
    "Decimal": lambda: decimal.Decimal("1.10"),
    "Fraction": lambda: fractions.Fraction(1, 3),
    "UUID": lambda: uuid.UUID(int=5),
    "Path": lambda: pathlib.Path("/a/b.txt"),
    "PurePath": lambda: pathlib.PureWindowsPath("c:/a"),
    "datetime": lambda: dt.datetime(2024, 2, 29, 1, 2, 3, 4),  # noqa: DTZ001 - naive is the point
    "datetime with zone": lambda: dt.datetime(
        2024, 3, 31, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1
    ),
    "timezone": lambda: dt.timezone(dt.timedelta(hours=5, minutes=30)),
    "timedelta": lambda: dt.timedelta(days=1, microseconds=1),
    "IP address": lambda: ipaddress.ip_network("10.0.0.0/8"),
    "compiled regex": lambda: re.compile(r"(?P<a>\d+)ä", re.IGNORECASE),
    "bytes regex": lambda: re.compile(rb"\x00+"),
    "a module": lambda: string,
    "builtin function": lambda: len,
    "a class": lambda: collections.OrderedDict,
    "method of a class": lambda: str.upper,
    "Ellipsis and NotImplemented": lambda: (..., NotImplemented),
    "enum": lambda: Colour.RED,
    "enum class": lambda: Colour,
    "namedtuple": lambda: Pair(1, [2]),
    "dataclass": lambda: Plain(1, ["a"]),
    "frozen dataclass with slots": lambda: Frozen(1, Frozen(2)),
    "msgspec Struct": lambda: Record(1, "name"),
    "class with slots": lambda: Square(3),
    "generic class": lambda: Box[int](3),
    "generic alias": lambda: Box[int],
    "builtin alias": lambda: list[dict[str, int | None]],
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1, b=[2]),
    "MappingProxyType": lambda: dict(types.MappingProxyType({"a": 1})),
    "function of a module": lambda: _frozen,
    "cached function of a module": lambda: double,
    "itemgetter": lambda: operator.itemgetter(1)(["a", "b"]),
    "numpy scalar": lambda: np.float32(1.5),
    "numpy dtype": lambda: np.dtype("i4,f8"),
    "unknown dataclass": lambda: UNKNOWN.Point(1),
    "unknown namedtuple": lambda: UNKNOWN.Pair(1),
    "unknown IntEnum": lambda: UNKNOWN.Colour.BLUE,
    "unknown Flag": lambda: UNKNOWN.Access.READ | UNKNOWN.Access.WRITE,
    "unknown class with super()": lambda: UNKNOWN.Square(3),
}

_CHECKED: dict[str, tuple[Callable[[], Any], Check]] = {
    "empty array": (lambda: np.empty((0, 3)), _same_array),
    "array without dimensions": (lambda: np.array(3.5), _read_only),
    "array of objects": (lambda: np.array([{"a": 1}, None, "text"], dtype=object), _same_array),
    "array of records with objects": (
        lambda: np.array([(1, ["a"])], dtype=[("n", "i4"), ("o", "O")]),
        _same_array,
    ),
    "array that is mapped": (_memmap, lambda before, after: bool((before == after).all())),
    "masked array": (lambda: np.ma.masked_equal([1, 2, 3], 2), _masked),
    "matrix": (lambda: np.arange(4).reshape(2, 2).view(np.matrix), _same_array),
    "array of a subclass": (lambda: np.arange(3).view(Vector), _same_array),
    "recarray": (
        lambda: np.array([(1, "a")], dtype="i4,U3").view(np.recarray),
        lambda before, after: bool(before.f0 == after.f0 and before.f1 == after.f1),
    ),
    "random generator": (
        lambda: np.random.default_rng(3),
        lambda _, after: after.random() == np.random.default_rng(3).random(),
    ),
    "memoryview": (lambda: memoryview(b"abc"), lambda _, after: after == b"abc"),
    "a lambda": (lambda: lambda x, y=2, *z, k=4: (x, y, z, k), _calls(lambda f: f(1, k=3))),
    "a closure": (lambda: UNKNOWN.counter(5), lambda _, f: [f(), f(2, factor=3)] == [6, 12]),
    "a recursive function": (lambda: UNKNOWN.factorial, _calls(lambda f: f(20))),
    "mutually recursive functions": (
        lambda: (UNKNOWN.is_even, UNKNOWN.is_odd),
        _calls(lambda pair: (pair[0](10), pair[1](10))),
    ),
    "a function with a global": (lambda: UNKNOWN.with_global, _calls(lambda f: f(1))),
    "partial": (
        lambda: functools.partial(lambda a, b, c: (a, b, c), 1, c=3),
        _calls(lambda f: f(2)),
    ),
    "partial of an unknown function": (
        lambda: functools.partial(UNKNOWN.Square, colour="blue"),
        _calls(lambda make: make(2).tell()),
    ),
    "cached function": (
        lambda: functools.lru_cache(lambda x: x + 1),
        _calls(lambda f: (f(1), f(1), f.cache_info().hits)),
    ),
    "cached recursive function": (
        lambda: UNKNOWN.fibonacci,
        _calls(
            lambda f: f(200),
            lambda f: (f.__name__, f.__wrapped__.__name__, f.cache_parameters()),
            lambda f: f.cache_info().currsize,
        ),
    ),
    "bound method of a builtin": (lambda: "a,b".split, _calls(lambda split: split(","))),
    "bound method": (lambda: UNKNOWN.Square(3).tell, _calls(lambda f: f())),
    "operator": (lambda: operator.attrgetter("imag"), _calls(lambda f: f(3j))),
    "itertools": (lambda: list(itertools.accumulate([1, 2])), _equal),
    "unknown class": (
        lambda: UNKNOWN.Square,
        _calls(
            lambda kind: kind(3, "blue").tell(),
            lambda kind: kind.unit().area(),
            lambda kind: kind.twice(4),
            lambda kind: [base.__name__ for base in kind.__mro__],
        ),
    ),
    "unknown abstract class": (
        lambda: UNKNOWN.Base,
        _calls(lambda kind: (sorted(kind.__abstractmethods__), kind.__doc__)),
    ),
    "unknown generic class": (lambda: UNKNOWN.Box, _calls(lambda kind: kind[int](3).item)),
    "unknown enum class": (
        lambda: UNKNOWN.Colour,
        _calls(lambda kind: [(member.name, member.value) for member in kind]),
    ),
    "property of an unknown class": (
        lambda: UNKNOWN.Square(3),
        _calls(_resized),
    ),
    "exception": (lambda: ValueError("text", 3), _says("args")),
    "exception with attributes": (_noted, _says("errno", "filename", "__notes__")),
    "exception with required keywords": (lambda: NeedsKeywordError(code=3), _says("code")),
    "exception with slots": (lambda: SlottedError("text", 3), _says("code")),
    "unknown exception": (lambda: UNKNOWN.WrongSizeError(size=3), _says("size", "unit")),
    "exception group": (_group, lambda before, after: repr(before) == repr(after)),
    "codec error": (
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        _says("object", "start"),
    ),
    "object with a state of its own": (lambda: Told(3), lambda _, after: after.number == 3),
    "buffer beside the pickle": (
        lambda: Image((2, 3), b"pixels"),
        lambda before, after: (after.size, bytes(after.pixels)) == (before.size, b"pixels"),
    ),
    "writable buffer beside the pickle": (
        lambda: Image((1, 4000), bytearray(4000)),
        lambda _, after: bytes(after.pixels) == bytes(4000),
    ),
    "empty buffer beside the pickle": (
        lambda: Image((0, 0), b""),
        lambda _, after: bytes(after.pixels) == b"",
    ),
    "large tuple of arrays": (
        lambda: tuple(np.full(3, number) for number in range(2_000)),
        lambda before, after: all(map(_read_only, before, after)) and len(after) == 2_000,
    ),
    "arrays of several sizes": (
        lambda: {size: np.arange(size) for size in (0, 1, 7, 511, 512, 513, 70_000)},
        lambda before, after: all(_same_array(before[size], after[size]) for size in before),
    ),
    "the same array several times": (
        _twice,
        lambda _, after: after[0] is after[1]["again"] is after[2][0],
    ),
    "the same large bytes twice": (
        lambda: [bytes(100_000)] * 2,
        lambda _, after: after[0] is after[1],
    ),
    "what contains itself": (
        _endless,
        lambda _, after: after["self"] is after and after["items"][1] is after["items"],
    ),
    "deeply nested": (_deep, lambda before, after: _bottom(after) == _bottom(before) == "bottom"),
    "views of one array": (
        lambda: _with_view(np.arange(10)),
        lambda before, after: all(map(_same_array, before, after)),
    ),
}

SPECIMENS = [
    *(Specimen(name, make, _equal) for name, make in _EQUAL.items()),
    *(Specimen(f"array, {name}", make, _read_only) for name, make in _ARRAYS.items()),
    *(Specimen(name, make, check) for name, (make, check) in _CHECKED.items()),
]
