from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from cloudray.values.inspect import why_not_picklable

LOCK = threading.Lock()


class Holder:
    def __init__(self, member: Any) -> None:
        self.member = member

    def method(self) -> None:
        pass


class Stubborn:
    def __reduce__(self) -> Any:
        raise ValueError


def culprit(value: object) -> str:
    """What the sentence says is at fault."""
    sentence = why_not_picklable(value, "value", TypeError("no locks"))
    return sentence.removeprefix("cannot pickle value: ").partition(" is a ")[0]


def closure() -> Callable[[], Any]:
    lock = threading.Lock()
    return lambda: lock


def default(lock: Any = LOCK) -> Any:
    return lock


def uses_a_global() -> Any:
    return LOCK


# The functions are pickled by value only where their module cannot be imported.
for function in (default, uses_a_global):
    function.__module__ = "__main__"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "value"),
        ({"a": 1, "lock": LOCK}, "value['lock']"),
        ([0, LOCK], "value[1]"),
        ((0, 1, LOCK), "value[2]"),
        ({"deep": [Holder({"er": LOCK})]}, "value['deep'][0].member['er']"),
        (Holder(LOCK).method, "value.__self__.member"),
        (closure(), "value's closure variable 'lock'"),
        (default, "value's default argument 0"),
        (uses_a_global, "value's global variable 'LOCK'"),
    ],
)
def test_the_path_leads_to_what_cannot_be_pickled(value: object, path: str) -> None:
    assert culprit(value) == path


def test_the_sentence_names_the_type_and_the_reason_and_what_to_do() -> None:
    sentence = why_not_picklable([LOCK], "the result of f", TypeError("no locks"))
    assert sentence == (
        "cannot pickle the result of f: the result of f[0] is a _thread.lock (no locks). "
        "Make it inside the task, pass what it is made from, or keep it out of the function's "
        "closure."
    )


def test_an_error_without_a_message_is_told_by_its_name() -> None:
    assert "(ValueError)" in why_not_picklable(Stubborn(), "value", ValueError())


def test_a_value_that_contains_itself_is_searched_once() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    value["lock"] = LOCK
    assert culprit(value) in {"value['self']['lock']", "value['lock']", "value['self']"}


def test_the_search_ends_at_some_depth() -> None:
    value: Any = LOCK
    for _ in range(20):
        value = [value]
    assert culprit(value) == "value" + "[0]" * 6
