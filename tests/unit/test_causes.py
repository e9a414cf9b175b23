"""Exceptions as text and as bytes, and classes of both."""

from __future__ import annotations

import pickle
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from cloudray import causes


class Unloadable(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code} {detail}")


class WithState(Exception):
    """Says how it is restored, and that is respected."""

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        self.restored = True


def raise_through_ours() -> None:
    """Raises inside the package."""
    causes.loads(b"no pickle")


def caught(function: Any) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: PT011 - the caller looks at it
        function()
    return info.value


def test_our_frames_are_hidden() -> None:
    text = causes.format_traceback(caught(raise_through_ours))
    assert "in raise_through_ours" in text
    assert causes.__file__ not in text
    assert "causes.loads(b" in text


def test_a_traceback_of_our_frames_only_is_shown() -> None:
    error = caught(raise_through_ours)
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error.__traceback__ = error.__traceback__.tb_next
    assert causes.__file__ in causes.format_traceback(error)


def test_our_frames_are_hidden_in_causes_contexts_and_groups() -> None:
    def fail() -> None:
        group = ExceptionGroup("several", [caught(raise_through_ours)])
        try:
            raise_through_ours()
        except pickle.UnpicklingError:
            raise ValueError("outer") from group

    text = causes.format_traceback(caught(fail))
    assert "several" in text
    assert "outer" in text
    assert text.count("in raise_through_ours") == 1
    assert causes.__file__ not in text


def code_in(file: str, source: str) -> dict[str, Any]:
    """What some source defines, as if it stood in a file."""
    names: dict[str, Any] = {}
    exec(compile(source, file, "exec"), names)  # noqa: S102 - the test's own code
    return names


RUNNER = str(Path(causes.__file__).parent / "executor" / "run.py")
LOOP = """
def run_until_complete(work):
    work()
"""
CALLER = """
def run(function):
    function()
"""


def test_what_stands_between_our_frames_is_not_the_users() -> None:
    loop = code_in("/usr/lib/python/asyncio/runners.py", LOOP)["run_until_complete"]
    run = code_in(RUNNER, CALLER)["run"]

    def users() -> None:
        raise ValueError("in a coroutine")

    text = causes.format_traceback(caught(lambda: run(lambda: loop(lambda: run(users)))))
    assert "run_until_complete" not in text
    assert text.count("File ") == 1
    assert "in users" in text


def test_everything_is_shown_to_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDRAY_TRACEBACK", "full")
    assert causes.__file__ in causes.format_traceback(caught(raise_through_ours))


def test_of_a_deep_recursion_the_beginning_and_the_end_are_shown() -> None:
    def first() -> None:
        even(0)

    def even(number: int) -> None:
        odd(number + 1)

    def odd(number: int) -> None:
        if number > 500:
            raise ValueError("deep enough")
        even(number + 1)

    text = causes.format_traceback(caught(first))
    assert "in first" in text
    assert re.search(r"\n  \.\.\. 4\d\d frames \.\.\.\n", text)
    assert text.count("File ") == 30
    assert text.endswith("ValueError: deep enough")


def test_a_traceback_of_usual_depth_is_shown_whole() -> None:
    def down(number: int) -> None:
        if number == 0:
            raise ValueError("the bottom")
        again(number)

    def again(number: int) -> None:
        down(number - 1)

    assert causes.format_traceback(caught(lambda: down(25))).count("File ") > 50


def test_where_a_syntax_error_is_stands_in_its_traceback() -> None:
    text = causes.format_traceback(caught(lambda: compile("a = = 1", "tea.py", "exec")))
    assert '  File "tea.py", line 1\n    a = = 1\n' in text


def test_a_message_that_cannot_be_made_does_not_stop_us() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "Rude" in causes.format_traceback(Rude())


def test_what_pickle_cannot_load_is_loaded() -> None:
    error = causes.loads(causes.dumps(Unloadable(3, "d")))
    assert (type(error), str(error)) == (Unloadable, "3 d")


def test_what_pickle_cannot_load_is_loaded_inside_of_others_too() -> None:
    error = ExceptionGroup("several", [Unloadable(3, "d")])
    error.add_note("so that there is state")
    arrived = causes.loads(causes.dumps(error))
    assert [str(part) for part in arrived.exceptions] == ["3 d"]
    assert arrived.__notes__ == error.__notes__


def test_a_class_that_says_how_it_is_restored_is_asked() -> None:
    error = WithState("x")
    error.add_note("so that there is state")
    assert causes.loads(causes.dumps(error)).restored


def test_the_first_reason_is_told_when_no_way_works() -> None:
    error = ValueError()
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
        causes.dumps(error)


def test_notes_are_carried() -> None:
    error = ValueError("no")
    error.add_note("see above")
    assert causes.loads(causes.dumps(error)).__notes__ == ["see above"]


def test_two_classes_of_different_layout_have_no_class_of_both() -> None:
    with pytest.raises(TypeError, match="lay-out conflict"):
        causes.class_of_both(OSError, SyntaxError)


def test_a_class_of_both_is_made_once() -> None:
    first = causes.class_of_both(LookupError, OSError)
    assert first is causes.class_of_both(LookupError, OSError)
    assert first.__name__ == "LookupError(OSError)"


class Refuses:
    def __reduce__(self) -> Any:
        raise KeyError("not this one")


def test_an_error_that_led_through_the_users_code_has_more_to_tell() -> None:
    error = caught(lambda: pickle.dumps(Refuses()))
    assert causes.with_frames_of_theirs(error) is error


def caught_in_ours() -> Exception:
    """An error whose traceback begins in the package."""
    error = caught(raise_through_ours)
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error.__traceback__ = error.__traceback__.tb_next
    assert error.__traceback__
    return error


def test_an_error_of_pickles_own_has_not() -> None:
    assert causes.with_frames_of_theirs(caught_in_ours()) is None


def test_a_refusal_is_told_by_its_message_alone() -> None:
    error = caught_in_ours()
    assert "Traceback" in causes.format_traceback(error)
    assert "Traceback" not in causes.format_traceback(error, is_refusal=True)
