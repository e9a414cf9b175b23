from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cloudray
from cloudray import configuration
from cloudray.api.tracebacks import cut, shorten
from cloudray.configuration import Configuration
from cloudray.exceptions import ObjectLostError

#: Code that seems to be part of the package.
OURS = str(Path(cloudray.__file__).parent / "api" / "imagined.py")
SOURCE = """
def call(work):
    try:
        return inside(work)
    except BaseException as error:
        shorten(error)
        raise

def inside(work):
    return work()

def failing(error):
    def fail():
        raise error
    return fail

def explaining(work):
    def explain():
        try:
            work()
        except Exception as error:
            raise TypeError("cannot do that") from error
    return explain

def interrupted():
    try:
        raise BlockingIOError
    except BlockingIOError:
        raise KeyboardInterrupt
"""


@pytest.fixture
def ours() -> dict[str, Any]:
    names: dict[str, Any] = {"shorten": shorten}
    exec(compile(SOURCE, OURS, "exec"), names)  # noqa: S102 - the code above
    return names


@pytest.fixture(params=["setting", "environment"])
def full(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "environment":
        monkeypatch.setenv("CLOUDRAY_TRACEBACK", "full")
        yield
    else:
        configuration.use(Configuration(traceback="full"))
        yield
        configuration.use(None)


def functions(error: BaseException | None) -> list[str]:
    """The functions in an error's traceback, beginning with the one that caught it."""
    assert error is not None
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def caught(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize(
    "error",
    [ObjectLostError("0a"), TypeError("no"), ValueError("no"), RuntimeError(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_what_is_raised_here_deliberately_comes_from_the_users_line(
    ours: dict[str, Any], error: BaseException
) -> None:
    def users() -> None:
        ours["call"](ours["failing"](error))

    assert functions(caught(users)) == ["caught", "users"]


def test_a_mistake_of_ours_keeps_its_frames(ours: dict[str, Any]) -> None:
    error = caught(lambda: ours["call"](ours["failing"](KeyError("bug"))))
    assert functions(error)[-3:] == ["call", "inside", "fail"]


def test_the_users_code_that_we_call_is_shown(ours: dict[str, Any]) -> None:
    def unpickle() -> None:
        raise AttributeError("no such colour")

    def users() -> None:
        ours["call"](unpickle)

    assert functions(caught(users)) == ["caught", "users", "unpickle"]


def test_a_cause_shows_no_frames_of_ours_either(ours: dict[str, Any]) -> None:
    def reduce() -> None:
        raise KeyError("lock")

    def users() -> None:
        ours["call"](ours["explaining"](reduce))

    error = caught(users)
    assert functions(error) == ["caught", "users"]
    assert functions(error.__cause__) == ["reduce"]


def test_what_the_user_was_handling_is_still_told(ours: dict[str, Any]) -> None:
    def users() -> None:
        try:
            _ = 1 // 0
        except ZeroDivisionError:
            ours["call"](ours["failing"](ValueError("no")))

    error = caught(users)
    assert isinstance(error.__context__, ZeroDivisionError)
    assert functions(error.__context__) == ["users"]


def test_what_was_being_handled_here_when_ctrl_c_came_is_nobodys_business(
    ours: dict[str, Any],
) -> None:
    def users() -> None:
        try:
            _ = 1 // 0
        except ZeroDivisionError:
            ours["call"](ours["interrupted"])

    error = caught(users)
    assert functions(error) == ["caught", "users"]
    assert isinstance(error.__context__, ZeroDivisionError)


@pytest.mark.usefixtures("full")
def test_who_wants_to_see_everything_does(ours: dict[str, Any]) -> None:
    error = caught(lambda: ours["call"](ours["failing"](ValueError("no"))))
    assert {"call", "inside", "fail"} <= set(functions(error))


def test_a_traceback_can_be_cut_where_our_code_begins(ours: dict[str, Any]) -> None:
    def users() -> None:
        ours["inside"](ours["failing"](KeyboardInterrupt()))

    error = caught(users)
    cut(error.__traceback__)
    assert functions(error) == ["caught", "users"]


def test_a_traceback_without_our_code_is_not_cut() -> None:
    error = caught(lambda: sys.exit(1))
    before = functions(error)
    cut(error.__traceback__)
    assert functions(error) == before
    cut(None)
