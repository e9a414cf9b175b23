"""Calls are checked as Python itself would check them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray.api.signature import Signature


def nothing() -> None: ...
def one(a: int) -> None: ...
def defaults(a: int, b: str = "x", c: object = object()) -> None: ...
def positional_only(a: int, b: int = 2, /, c: int = 3) -> None: ...
def keyword_only(a: int, *, b: int, c: int = 3) -> None: ...
def optional_keyword_only(a: int, *, c: int = 3) -> None: ...
def any_number(a: int, *rest: int, b: int = 2) -> None: ...
def any_keywords(a: int, **more: int) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...
def everything(
    a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **more: int
) -> None: ...
async def coroutine(a: int) -> None: ...


FUNCTIONS: list[Callable[..., Any]] = [
    nothing,
    one,
    defaults,
    positional_only,
    keyword_only,
    optional_keyword_only,
    any_number,
    any_keywords,
    anything,
    everything,
]

names = st.sampled_from(["a", "b", "c", "d", "e", "rest", "more", "z"])


def said(call: Callable[[], object]) -> str | None:
    """What TypeError a call raises, if any."""
    try:
        call()
    except TypeError as error:
        return str(error)
    return None


@given(
    st.sampled_from(FUNCTIONS),
    st.lists(st.integers(), max_size=6),
    st.dictionaries(names, st.integers(), max_size=4),
)
def test_a_check_says_what_the_call_would_say(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    signature = Signature.of(function)
    assert said(lambda: signature.check(args, kwargs)) == said(lambda: function(*args, **kwargs))


@given(st.sampled_from(FUNCTIONS), st.lists(st.integers(), max_size=6))
def test_the_counts_decide_calls_without_keywords(
    function: Callable[..., Any], args: list[int]
) -> None:
    signature = Signature.of(function)
    fits = signature.min_positional <= len(args) <= signature.max_positional
    assert fits == (said(lambda: function(*args)) is None)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "defaults() missing 1 required positional argument: 'a'"),
        ((1, 2, 3, 4), {}, "defaults() takes from 1 to 3 positional arguments but 4 were given"),
        ((1,), {"z": 1}, "defaults() got an unexpected keyword argument 'z'"),
        ((1,), {"a": 1}, "defaults() got multiple values for argument 'a'"),
    ],
)
def test_errors_have_pythons_words(
    args: tuple[int, ...], kwargs: dict[str, int], message: str
) -> None:
    with pytest.raises(TypeError) as info:
        Signature.of(defaults).check(args, kwargs)
    assert str(info.value) == message


def test_an_error_shows_no_frames_of_the_checker() -> None:
    with pytest.raises(TypeError) as info:
        Signature.of(one).check((), {})
    assert info.value.__cause__ is None
    assert info.value.__suppress_context__
    assert [entry.name for entry in info.traceback][1:] == ["check"]


def test_a_method_is_named_with_its_class() -> None:
    class Painter:
        def paint(self, colour: str) -> None: ...

    with pytest.raises(TypeError, match=r"Painter\.paint\(\) missing 1 required"):
        Signature.of(Painter().paint).check((), {})


def test_a_coroutine_function_is_checked_without_being_called() -> None:
    with pytest.raises(TypeError, match=r"coroutine\(\) missing 1 required"):
        Signature.of(coroutine).check((), {})


def test_a_function_that_tells_no_signature_takes_anything() -> None:
    with pytest.raises(ValueError, match="no signature found"):
        inspect.signature(type)
    signature = Signature.of(type)
    signature.check((1, 2, 3, 4, 5), {"z": 1})
    assert signature.min_positional == 0
    assert signature.max_positional > 1000


def test_a_builtin_that_tells_its_signature_is_checked() -> None:
    with pytest.raises(TypeError, match=r"len\(\) missing 1 required positional argument"):
        Signature.of(len).check((), {})


def test_a_partial_needs_only_what_is_left() -> None:
    signature = Signature.of(functools.partial(defaults, 1))
    assert (signature.min_positional, signature.max_positional) == (0, 2)
    with pytest.raises(TypeError, match=r"defaults\(\) takes from 0 to 2 positional arguments"):
        signature.check((1, 2, 3), {})


def test_a_keyword_given_to_a_partial_may_be_given_again() -> None:
    signature = Signature.of(functools.partial(keyword_only, b=2))
    signature.check((1,), {})
    signature.check((1,), {"b": 3})
    assert (signature.min_positional, signature.max_positional) == (1, 1)


def test_a_wrapped_function_is_checked_as_what_it_wraps() -> None:
    @functools.wraps(one)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        one(*args, **kwargs)

    with pytest.raises(TypeError, match=r"one\(\) missing 1 required"):
        Signature.of(wrapper).check((), {})


def test_an_instance_with_a_call_is_checked() -> None:
    class Painter:
        def __call__(self, colour: str) -> None: ...

    with pytest.raises(TypeError, match=r"Painter\(\) missing 1 required"):
        Signature.of(Painter()).check((), {})


def test_a_signature_that_is_none_takes_anything() -> None:
    def odd() -> None: ...

    odd.__signature__ = "odd"  # type: ignore[attr-defined]
    Signature.of(odd).check((1, 2), {"z": 3})


def test_keywords_named_like_the_checkers_own_parameters_are_no_trouble() -> None:
    Signature.of(anything).check((1,), {"self": 1, "args": 2, "kwargs": 3})


def test_the_parameters_that_take_arguments_by_position_have_names() -> None:
    def f(first: int, /, second: int, *rest: int, only: int = 0) -> None: ...

    assert Signature.of(f).names == ("first", "second")
    assert Signature.of(min).names == ()
