"""Which strings are keys: the same on every store, so that none can be left by a key.

A key is one or more non-empty parts joined by ``/``. A part is neither ``.`` nor ``..`` and
holds no control characters; the first part is not ``.tmp``, where a directory store writes.
"""

from __future__ import annotations

import re

#: The folder of a directory store's unfinished files.
RESERVED = ".tmp"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_key(key: str) -> None:
    """Raise `ValueError` unless `key` is one.

    >>> check_key("queue/py311-cpu1-m4/5/a.0")
    >>> check_key("../passwd")
    Traceback (most recent call last):
    ValueError: '../passwd' is not a key: a part of it is '..'
    """
    problem = _problem_of(key) if key else "it is empty"
    if problem:
        raise ValueError(f"{key!r} is not a key: {problem}")


def check_prefix(prefix: str) -> None:
    """Raise `ValueError` unless keys may begin with `prefix`; it may be empty or end mid-name."""
    folder, _, _ = prefix.rpartition("/")
    problem = "it begins with '/'" if prefix.startswith("/") else folder and _problem_of(folder)
    if not problem and _CONTROL.search(prefix):
        problem = "it holds a control character"
    if problem:
        raise ValueError(f"no key begins with {prefix!r}: {problem}")


def _problem_of(key: str) -> str:
    # Everything that can be wrong shows in one of these cheap looks; most keys pass them all.
    if not (
        key[0] in "/." or key[-1] == "/" or "//" in key or "/." in key or not key.isprintable()
    ):
        return ""
    for part in key.split("/"):
        if not part:
            return "a part of it is empty"
        if part in {".", ".."}:
            return f"a part of it is {part!r}"
    if _CONTROL.search(key):
        return "it holds a control character"
    if key == RESERVED or key.startswith(RESERVED + "/"):
        return f"{RESERVED!r} is reserved"
    return ""
