from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cloudray.values.inspect import refusal, why_not_picklable

LOCK = threading.Lock()
MAKE_INSIDE = (
    "Make it inside the task, pass what it is made from, or keep it out of the function's closure."
)


class Holder:
    def __init__(self, member: Any) -> None:
        self.member = member

    def method(self) -> None:
        pass


class Slots:
    __slots__ = ("member",)

    def __init__(self, member: Any) -> None:
        self.member = member


class Mapping(dict[str, Any]):
    extra: Any


class Stubborn:
    def __reduce__(self) -> Any:
        raise ValueError("no way")


class Secretive:
    def __reduce__(self) -> Any:
        return Holder, (LOCK,)


class MadeWhilePickled:
    def __getstate__(self) -> Any:
        return {"lock": threading.Lock()}


class Shy:
    """Says nothing of its members."""

    def __init__(self) -> None:
        object.__setattr__(self, "lock", LOCK)

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise RuntimeError("none of your business")
        return object.__getattribute__(self, name)

    def __reduce__(self) -> Any:
        return Holder, (LOCK,)


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def closure() -> Callable[[], Any]:
    lock = threading.Lock()
    return lambda: lock


def default(lock: Any = LOCK) -> Any:
    return lock


def keyword(*, lock: Any = LOCK) -> Any:
    return lock


def uses_a_global() -> Any:
    return LOCK


def uses_a_global_deep_inside() -> Any:
    return lambda: LOCK


# The functions are pickled by value only where their module cannot be imported.
for function in (default, keyword, uses_a_global, uses_a_global_deep_inside):
    function.__module__ = "__main__"


def sentence(value: object) -> str:
    """What is said of a value that cannot be pickled."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever cloudpickle raises
        cloudpickle.dumps(value)
    return why_not_picklable(value, "the value", raised.value)


def culprit(value: object) -> str:
    """What the sentence says is at fault."""
    return sentence(value).removeprefix("cannot pickle the value: ").partition(" is a ")[0]


def mapping(**extra: Any) -> Mapping:
    made = Mapping(a=1)
    made.__dict__ |= extra
    return made


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "it"),
        ({"a": 1, "lock": LOCK}, "its member ['lock']"),
        ([0, LOCK], "its member [1]"),
        ((0, 1, LOCK), "its member [2]"),
        ({"deep": [Holder({"er": LOCK})]}, "its member ['deep'][0].member['er']"),
        ([Slots(LOCK)], "its member [0].member"),
        (mapping(extra=LOCK), "its member .extra"),
        (Holder(LOCK).method, "its member .__self__.member"),
        (functools.partial(print, LOCK), "its member .args[0]"),
        (closure(), "its closure variable 'lock'"),
        (default, "its default argument 0"),
        (keyword, "its default argument 'lock'"),
        (uses_a_global, "its global variable 'LOCK'"),
        (uses_a_global_deep_inside, "its global variable 'LOCK'"),
        ([closure()], "its member [0]'s closure variable 'lock'"),
        ([0, Stubborn()], "its member [1]"),
        ([0, MadeWhilePickled()], "its member [1]"),
        ([0, Shy()], "its member [1]"),
    ],
)
def test_the_path_leads_to_what_cannot_be_pickled(value: object, path: str) -> None:
    assert culprit(value) == path


def test_the_sentence_names_the_type_and_what_to_do() -> None:
    assert sentence([LOCK]) == (
        f"cannot pickle the value: its member [0] is a _thread.lock. {MAKE_INSIDE}"
    )


def test_the_sentence_has_the_reason_when_that_says_more() -> None:
    assert "a tests.unit.values.test_inspect.Stubborn (ValueError: no way)." in sentence(Stubborn())
    assert "Secretive (cannot pickle '_thread.lock' object)." in sentence(Secretive())


def test_an_error_without_a_message_is_told_by_its_name() -> None:
    assert "(ValueError)" in why_not_picklable(LOCK, "it", ValueError())


def test_an_error_whose_message_fails_is_told_all_the_same() -> None:
    assert "(Silent: it has no message" in why_not_picklable(LOCK, "it", Silent())


def test_the_advice_fits_what_it_is_given_for(tmp_path: Path) -> None:
    def count_up() -> Iterator[int]:
        yield 1

    assert sentence(count_up()).endswith("is a generator. Pass what it yields, as a list.")
    with tmp_path.joinpath("file").open("wb") as file:
        assert sentence([file]).endswith("Pass its path, and open it inside the task.")


def test_a_value_that_contains_itself_is_searched_once() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    value["lock"] = LOCK
    assert culprit(value) == "its member ['lock']"


def test_a_long_path_is_told_without_its_middle() -> None:
    value: Any = LOCK
    for _ in range(50):
        value = [value]
    assert culprit(value) == f"its member {'[0]' * 10}[...]{'[0]' * 10}"


def test_a_value_that_is_nested_too_deeply_says_so() -> None:
    value: Any = None
    for _ in range(100_000):
        value = [value]
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever cloudpickle raises
        cloudpickle.dumps(value)
    error = refusal(value, "the result of f", raised.value)
    assert type(error).__name__ == "PicklingError"
    assert str(error).startswith("cannot pickle the result of f: it is nested too deeply.")
