"""What every store promises, whatever it is made of and however it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cloudray.store import (
    UNCHANGED,
    Adopt,
    Body,
    Buffer,
    Create,
    Delete,
    Get,
    GetIfChanged,
    GetMany,
    Head,
    Kind,
    Op,
    Put,
    Store,
    StoreError,
    Tagged,
    seal,
)
from cloudray.store.probe import probe

from .conftest import Caller

#: In the order of the strings: '-' and '.' sort before '/', digits after.
KEYS = ["a-b", "a.b", "a/0", "a/b", "a/b-c", "a/b.0", "a/c/d", "a/c0", "a0", "b c=+~", "b/é", "z/z"]


def record(payload: bytes = b"") -> bytes:
    return seal(Kind.PROBE, payload)


def keys(store: Store, prefix: str = "", after: str = "", limit: int = 1000) -> list[str]:
    return [entry.key for entry in store.list(prefix, after, limit)]


@pytest.fixture
def filled(store: Caller) -> Caller:
    """The store with an object under each of `KEYS`."""
    for key in reversed(KEYS):
        store.put(key, key.encode())
    return store


def test_a_first_create_wins(store: Caller) -> None:
    body = record(b"first")
    assert store.perform(Create("a/b", body)) is None
    assert store.get("a/b") == body


def test_a_second_create_loses_and_is_shown_the_first(store: Caller) -> None:
    first = record(b"first")
    store.perform(Create("a/b", first))
    assert store.perform(Create("a/b", record(b"second"))) == first
    assert store.get("a/b") == first


def test_a_create_repeated_with_its_body_has_won(store: Caller) -> None:
    body = record()
    assert store.perform(Create("key", body)) is None
    assert store.perform(Create("key", body)) is None


def test_a_create_takes_several_buffers(store: Caller) -> None:
    body = record(b"payload")
    parts: list[Buffer] = [body[:10], memoryview(body)[10:40], b"", bytearray(body[40:])]
    assert store.perform(Create("key", parts)) is None
    assert store.perform(Create("key", record())) == body


def test_of_concurrent_creates_exactly_one_wins_and_all_others_are_shown_it(store: Caller) -> None:
    bodies = [record(b"%d" % rival) for rival in range(6)]
    answers = store.perform_together([Create("folder/key", body) for body in bodies])
    winners = [body for body, answer in zip(bodies, answers, strict=True) if answer is None]
    assert len(winners) == 1
    assert [answer for answer in answers if answer is not None] == winners * 5
    assert store.get("folder/key") == winners[0]


def test_a_put_replaces(store: Caller) -> None:
    store.put("a/b", b"first, and longer")
    store.put("a/b", b"second")
    assert store.get("a/b") == b"second"


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        pytest.param(b"", b"", id="empty"),
        pytest.param([], b"", id="none"),
        pytest.param([b"", b""], b"", id="several-empty"),
        pytest.param(bytearray(b"abc"), b"abc", id="bytearray"),
        pytest.param(memoryview(b"abcdef")[1:4], b"bcd", id="memoryview"),
        pytest.param([b"a", memoryview(b"bc")], b"abc", id="several"),
    ],
)
def test_a_put_takes_any_buffers(store: Caller, body: Body, stored: bytes) -> None:
    store.put("key", body)
    assert store.get("key") == stored


def test_buffers_of_numbers_are_stored_as_bytes(store: Caller) -> None:
    numbers = memoryview(bytes(range(32))).cast("Q")
    store.put("key", [b"head", numbers])
    assert store.get("key") == b"head" + bytes(range(32))


def test_an_absent_object_reads_as_none(store: Caller) -> None:
    store.put("a/b", b"here")
    assert store.get("absent") is None
    assert store.get("a/absent") is None
    assert store.get("a/b/absent") is None
    assert store.get("absent", 2, 3) is None
    assert store.get("absent", 2, 2) is None


@pytest.mark.parametrize(
    ("start", "end"), [(0, 3), (2, 5), (2, None), (None, 4), (8, 100), (10, 12), (50, 60), (4, 4)]
)
def test_a_range_reads_as_a_slice_does(store: Caller, start: int | None, end: int | None) -> None:
    body = b"0123456789"
    store.put("key", body)
    assert store.get("key", start, end) == body[start:end]


def test_several_objects_are_read_in_the_order_asked(filled: Caller) -> None:
    assert filled.get_many(["z/z", "absent", "a/0"]) == [b"z/z", None, b"a/0"]
    assert filled.get_many(["a/b"]) == [b"a/b"]
    assert filled.get_many([]) == []


def test_of_many_objects_no_more_is_read_than_is_asked_for(store: Caller) -> None:
    for key, body in (("long", b"0123456789"), ("short", b"01"), ("empty", b"")):
        store.put(key, body)
    op = GetMany(("long", "short", "absent", "empty"), end=4)
    assert store.perform(op) == [b"0123", b"01", None, b""]
    assert store.perform(GetMany(("long",), end=4)) == [b"0123"]


@pytest.mark.parametrize("body", [b"0123456789", b"01", b""], ids=["long", "short", "empty"])
def test_no_more_of_a_body_with_its_version_is_read_than_is_asked_for(
    store: Caller, body: bytes
) -> None:
    store.put("key", body)
    found = store.perform(GetIfChanged("key", end=4))
    assert isinstance(found, Tagged)
    assert found.body == body[:4]
    if body:
        assert store.perform(GetIfChanged("key", found.etag, 4)) is UNCHANGED


def test_head_tells_size_and_version(store: Caller) -> None:
    assert store.head("key") is None
    store.put("key", b"12345")
    first = store.head("key")
    assert first is not None
    assert (first.key, first.size_bytes) == ("key", 5)
    assert store.head("key") == first
    store.put("key", b"54321")
    second = store.head("key")
    assert second is not None
    assert second.etag != first.etag


def test_a_body_is_read_with_its_version_until_that_is_known(store: Caller) -> None:
    assert store.get_if_changed("key") is None
    store.put("key", b"first")
    first = store.get_if_changed("key")
    assert isinstance(first, Tagged)
    assert first.body == b"first"
    assert store.get_if_changed("key", first.etag) is UNCHANGED
    store.put("key", b"other")
    second = store.get_if_changed("key", first.etag)
    assert isinstance(second, Tagged)
    assert (second.body, second.etag != first.etag) == (b"other", True)
    store.delete(["key"])
    assert store.get_if_changed("key", second.etag) is None


def test_a_listing_is_in_the_order_of_the_strings(filled: Caller) -> None:
    assert keys(filled) == KEYS


def test_a_listing_tells_what_head_tells(filled: Caller) -> None:
    assert filled.list("a/") == [filled.head(key) for key in KEYS if key.startswith("a/")]


def test_a_prefix_may_end_anywhere(filled: Caller) -> None:
    for prefix in ("a", "a/", "a/b", "a/c", "a/c/", "a/b-", "a/0", "b", "z/z", "y"):
        assert keys(filled, prefix) == [key for key in KEYS if key.startswith(prefix)]


def test_a_listing_begins_after_any_string(filled: Caller) -> None:
    for after in ("a", "a/", "a/b", "a/c", "a/c/zzz", "a/b.", "b", "z/z", "zz"):
        assert keys(filled, after=after) == [key for key in KEYS if key > after]
        wanted = [key for key in KEYS if key.startswith("a/") and key > after]
        assert keys(filled, "a/", after) == wanted


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_pages_add_up_to_the_whole(filled: Caller, limit: int) -> None:
    found: list[str] = []
    while page := keys(filled, "a", found[-1] if found else "", limit):
        assert len(page) <= limit
        found += page
    assert found == [key for key in KEYS if key.startswith("a")]


def test_deleted_objects_are_gone(filled: Caller) -> None:
    filled.delete(["a/b", "z/z", "a-b"])
    assert keys(filled) == [key for key in KEYS if key not in {"a/b", "z/z", "a-b"}]
    assert filled.get("a/b") is None


def test_deleting_what_is_absent_is_no_error(filled: Caller) -> None:
    filled.delete(["absent", "a/b", "a/b/absent", "no/such/folder"])
    filled.delete(["absent"])
    filled.delete([])
    assert keys(filled) == [key for key in KEYS if key != "a/b"]


def test_an_adopted_file_becomes_an_object(store: Caller, tmp_path: Path) -> None:
    for body in (b"first", b"second"):
        file = tmp_path / "file"
        file.write_bytes(body)
        store.perform(Adopt("folder/object", file))
        assert store.get("folder/object") == body
        assert not file.exists()


def test_a_missing_file_cannot_be_adopted(store: Caller, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot make .* no such file"):
        store.perform(Adopt("object", tmp_path / "missing"))
    assert store.get("object") is None


@pytest.mark.parametrize("size_bytes", [(64 << 10) - 1, 64 << 10, (1 << 20) + 1])
def test_sizes_around_the_limits_are_kept(store: Caller, size_bytes: int) -> None:
    body = record(bytes(size_bytes - 64))
    assert store.perform(Create("created", body)) is None
    store.put("put", [body[:1000], body[1000:]])
    assert store.get("created") == store.get("put") == body
    assert store.get("put", size_bytes - 5) == body[-5:]


def test_bodies_of_several_parts_are_kept(raw: Store, call: Callable[[Store], Caller]) -> None:
    body = bytes(range(256)) * (9 << 12)
    store = call(raw)
    store.put("put", body)
    store.put("parts", [body[:70], memoryview(body)[70:]])
    assert store.perform(Create("created", [body[:70], body[70:]])) is True
    for key in ("put", "parts", "created"):
        assert store.get(key) == body


def test_a_raw_create_says_yes_or_no(raw: Store, call: Callable[[Store], Caller]) -> None:
    store = call(raw)
    assert store.perform(Create("a/b", b"first")) is True
    assert store.perform(Create("a/b", b"second")) is False
    assert store.get("a/b") == b"first"


@pytest.mark.parametrize(
    "op_on",
    [
        lambda key: Create(key, b""),
        lambda key: Put(key, b""),
        Get,
        lambda key: GetMany(("good", key)),
        GetIfChanged,
        Head,
        lambda key: Delete((key,)),
    ],
    ids=["create", "put", "get", "get-many", "get-if-changed", "head", "delete"],
)
def test_what_is_no_key_is_refused(
    raw: Store, call: Callable[[Store], Caller], op_on: Callable[[str], Op]
) -> None:
    store = call(raw)
    for key in ("", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", "a\nb", ".tmp/a"):
        with pytest.raises(ValueError, match="is not a key"):
            store.perform(op_on(key))


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a//b"])
def test_a_listing_does_not_leave_the_store(
    raw: Store, call: Callable[[Store], Caller], prefix: str
) -> None:
    with pytest.raises(ValueError, match="no key begins with"):
        call(raw).list(prefix)


@pytest.mark.parametrize(("start", "end"), [(-1, None), (3, 2)])
def test_what_is_no_range_is_refused(
    raw: Store, call: Callable[[Store], Caller], start: int, end: int | None
) -> None:
    raw.put("key", b"0123456789")
    with pytest.raises(ValueError, match="not a range"):
        call(raw).get("key", start, end)


def test_the_probe_accepts_it_and_leaves_nothing(store: Caller) -> None:
    probe(store.store)
    assert keys(store) == []
