"""Sentences that several kinds of bad input share."""

from __future__ import annotations

from collections.abc import Iterable


def type_names(types: tuple[type, ...]) -> str:
    """How a message names the types of an option.

    >>> type_names((int, type(None)))
    '(int, NoneType)'
    """
    names = [known.__name__ for known in types]
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def wrong_type(keyword: str, types: tuple[type, ...], value: object) -> TypeError:
    """The error for a keyword whose value is of none of these types, in Ray's words.

    >>> wrong_type("max_retries", (int,), "3")
    TypeError("The type of keyword 'max_retries' must be int, but received type str")
    """
    return TypeError(
        f"The type of keyword '{keyword}' must be {type_names(types)}, "
        f"but received type {type(value).__name__}"
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names the nearest of the known words; empty when none is near.

    >>> did_you_mean("num_cpu", ["num_gpus", "num_cpus"])
    " Did you mean 'num_cpus'?"
    >>> did_you_mean("colour", ["num_gpus", "num_cpus"])
    ''
    """
    found = nearest(word, known)
    return f" Did you mean {found!r}?" if found else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that somebody who wrote `word` most likely meant, if any.

    >>> nearest("cpus", ["num_gpus", "num_cpus"])
    'num_cpus'
    """
    import difflib  # only mistakes need it

    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.65)
    return by_lower[found[0]] if found else None
