from __future__ import annotations

import pytest

from cloudray.store.keys import check_key, check_prefix

GOOD = ["a", "a/b", "a.b", "a/.b", ".a", "..a", "a..", "a/...", "a b", "é/ü", "a/.tmp", ".tmpx"]
BAD = {
    "": "empty",
    "/": "empty",
    "/a": "empty",
    "a/": "empty",
    "a//b": "empty",
    ".": r"'\.'",
    "..": r"'\.\.'",
    "a/..": r"'\.\.'",
    "../a": r"'\.\.'",
    "a/../b": r"'\.\.'",
    "a/./b": r"'\.'",
    "a\0b": "control",
    "a\nb": "control",
    "a\x7f": "control",
    ".tmp": "reserved",
    ".tmp/a": "reserved",
}


@pytest.mark.parametrize("key", GOOD)
def test_these_are_keys(key: str) -> None:
    check_key(key)
    check_prefix(key)


@pytest.mark.parametrize(("key", "why"), BAD.items())
def test_these_are_no_keys(key: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"is not a key: .*{why}"):
        check_key(key)


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b.", "a/.", "."])
def test_keys_may_begin_with_these(prefix: str) -> None:
    check_prefix(prefix)


@pytest.mark.parametrize("prefix", ["/", "/a", "a//", "../", "a/../", "a/../b", "a\n", ".tmp/"])
def test_no_key_begins_with_these(prefix: str) -> None:
    with pytest.raises(ValueError, match="no key begins with"):
        check_prefix(prefix)
