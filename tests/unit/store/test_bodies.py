from __future__ import annotations

import pytest

from cloudray.store import Body, Get
from cloudray.store.bodies import beginning_of, join, range_of, size_of, views_of

BODIES: list[tuple[Body, bytes]] = [
    (b"", b""),
    (b"abcdef", b"abcdef"),
    (bytearray(b"abcdef"), b"abcdef"),
    (memoryview(b"xabcdefx")[1:7], b"abcdef"),
    (memoryview(bytes(16)).cast("Q"), bytes(16)),
    ([], b""),
    ([b"", b"ab", bytearray(b"c"), memoryview(b"def")], b"abcdef"),
    ((b"ab", memoryview(b"cdefghij").cast("H")), b"abcdefghij"),
]


@pytest.mark.parametrize(("body", "data"), BODIES)
def test_a_body_is_its_bytes_in_a_row(body: Body, data: bytes) -> None:
    assert join(body) == data
    assert size_of(body) == len(data)
    assert b"".join(views_of(body)) == data
    assert all(view.nbytes for view in views_of(body))


@pytest.mark.parametrize(("body", "data"), BODIES)
def test_its_beginning_is_that_of_its_bytes(body: Body, data: bytes) -> None:
    for size_bytes in (0, 1, 2, 3, 5, 100):
        assert beginning_of(body, size_bytes) == data[:size_bytes]


def test_one_buffer_is_not_copied() -> None:
    body = b"body"
    assert join(body) is body


@pytest.mark.parametrize(
    ("op", "found"),
    [
        (Get("key"), (0, None)),
        (Get("key", 3), (3, None)),
        (Get("key", None, 5), (0, 5)),
        (Get("key", 5, 5), (5, 5)),
    ],
)
def test_a_range_has_a_start(op: Get, found: tuple[int, int | None]) -> None:
    assert range_of(op) == found


@pytest.mark.parametrize("op", [Get("key", -1), Get("key", 0, -1), Get("key", 5, 4)])
def test_a_range_does_not_count_from_the_end(op: Get) -> None:
    with pytest.raises(ValueError, match="of key: that is not a range"):
        range_of(op)
