"""Errors: what they say, what they are instances of, and that they arrive whole."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

import cloudpickle
import pytest

from cloudray import causes, exceptions
from cloudray.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorHandleNotFoundError,
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectFreedError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    RayActorError,
    RayChannelTimeoutError,
    RayError,
    RaySystemError,
    RayTaskError,
    ReferenceCountingAssertionError,
    RpcError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskTimeoutError,
    TaskUnschedulableError,
    UnserializableException,
    WorkerCrashedError,
)


class WithCode(Exception):
    """Its message is not what its constructor takes: pickle alone would garble it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class TwoArguments(Exception):
    """Pickle alone cannot load it."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class WithSlots(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slots")
        self.code = code


class WithPrivateSlot(Exception):
    __slots__ = ("__code",)

    def __init__(self, code: int) -> None:
        self.__code = code

    def read(self) -> int:
        return self.__code


class WithProperty(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self._code = code

    @property
    def doubled(self) -> int:
        return 2 * self._code

    def tripled(self) -> int:
        return 3 * self._code


class WithOurNames(Exception):
    """Has attributes under names that RayTaskError uses."""

    def __init__(self) -> None:
        super().__init__("names")
        self.pid = "theirs"

    @property
    def cause(self) -> str:
        return "theirs"

    @property
    def traceback_str(self) -> str:
        return "theirs"


class SlotWithOurName(Exception):
    __slots__ = ("pid",)

    def __init__(self) -> None:
        super().__init__("names")
        self.pid = "theirs"


class Frozen(Exception):
    def __init__(self, code: int) -> None:
        object.__setattr__(self, "code", code)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("frozen")


class Final(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("final")


class WithOwnReduce(Exception):
    """Leaves out what cannot be pickled, and says how to do without it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[type[WithOwnReduce], tuple[int]]:
        return type(self), (self.code,)


class BrokenReduce(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__("broken")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type[BrokenReduce], tuple[int]]:
        return type(self), (self.code,)


class WithLock(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class MyOSError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "gone", path)


class StrictMeta(type):
    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> StrictMeta:
        if "(" in name:
            raise ValueError("no such names")
        return super().__new__(cls, name, bases, body)


class WithMetaclass(Exception, metaclass=StrictMeta):
    pass


class OddGroup(ExceptionGroup[Exception]):
    def __new__(cls, code: int, errors: list[Exception]) -> Self:
        made = super().__new__(cls, "odd", errors)
        made.code = code
        return made

    code: int

    def __init__(self, code: int, errors: list[Exception]) -> None:
        pass


def raised(error: BaseException, **where: Any) -> RayTaskError:
    """What a task that raised `error` publishes."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - any that a task may raise
        return RayTaskError("f", causes.format_traceback(caught), caught, **where)


def as_raised(error: BaseException) -> Any:
    """What `get` raises for a task that raised `error`."""
    return raised(error).as_instanceof_cause()


def state_of(error: BaseException) -> Any:
    """Its attributes, those in slots too."""
    return object.__getstate__(error)


def by_pickle(error: BaseException) -> Any:
    return pickle.loads(pickle.dumps(error, 5))


def by_cloudpickle(error: BaseException) -> Any:
    return pickle.loads(cloudpickle.dumps(error, 5))


WAYS: list[Callable[[BaseException], Any]] = [
    by_pickle,
    by_cloudpickle,
    copy.copy,
    copy.deepcopy,
]
ways = pytest.mark.parametrize("carry", WAYS, ids=lambda way: way.__name__)


# The tree.


def classes() -> list[type[RayError]]:
    found = [
        member
        for member in vars(exceptions).values()
        if isinstance(member, type) and issubclass(member, RayError)
    ]
    assert len(found) > 40
    return found


def test_the_tree_at_the_top_of_the_module_is_the_truth() -> None:
    parents: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for line in (exceptions.__doc__ or "").splitlines():
        if match := re.match(r"^( {4,})(\w+)(?:$| {2,})", line):
            depth = len(match[1])
            parents = [parent for parent in parents if parent[0] < depth]
            drawn[match[2]] = parents[-1][1] if parents else "Exception"
            parents.append((depth, match[2]))
    assert drawn == {found.__name__: found.__bases__[0].__name__ for found in classes()}


@pytest.mark.parametrize(
    ("error_class", "also"),
    [
        (GetTimeoutError, TimeoutError),
        (TaskTimeoutError, TimeoutError),
        (RayChannelTimeoutError, TimeoutError),
        (ReferenceCountingAssertionError, AssertionError),
        (ActorAlreadyExistsError, ValueError),
        (ActorHandleNotFoundError, ValueError),
    ],
)
def test_some_are_also_errors_of_python(error_class: type[RayError], also: type[Exception]) -> None:
    assert issubclass(error_class, also)


NEEDS_ARGUMENTS = {RayTaskError, ActorUnavailableError}


@pytest.mark.parametrize(
    "error_class",
    [found for found in classes() if found not in NEEDS_ARGUMENTS],
    ids=lambda found: found.__name__,
)
def test_an_error_that_is_told_nothing_has_a_message_of_its_own(
    error_class: type[RayError],
) -> None:
    message = str(error_class())
    assert message.endswith(".")
    assert message.count(" ") > 2


@pytest.mark.parametrize(
    "error_class", [ObjectStoreFullError, NodeDiedError, RpcError, ActorAlreadyExistsError]
)
def test_a_message_replaces_the_default_one(error_class: type[RayError]) -> None:
    assert str(error_class("it is so")) == "it is so"


FULL: list[RayError] = [
    TaskCancelledError("0v1c", "By hand."),
    TaskUnschedulableError("no machine has 8 GPUs"),
    WorkerCrashedError(
        task_name="f",
        task_id="0v",
        attempt=2,
        max_attempts=4,
        pid=12,
        exit_code=-11,
        ip="10.0.0.3",
        agent="a1",
        last_lines=["one", "two"],
        log="s3://b/logs/a1/0",
    ),
    GetTimeoutError(pending=["f (0v)"], timeout_s=2.0),
    ObjectLostError("0a", date=datetime(2026, 11, 24, tzinfo=UTC), reason="deleted"),
    OwnerDiedError("0a"),
    RuntimeEnvSetupError("no such file"),
    RayActorError("0c", "it broke", actor_init_failed=True, preempted=True),
    ActorDiedError("killed", actor_id="0c", preempted=True),
    ActorUnavailableError("it restarts", "0c"),
    UnserializableException("ValueError: no", reason="a lock"),
    RaySystemError("broken", "Traceback"),
    RpcError("lost", 14),
    RayChannelTimeoutError("slow"),
    ReferenceCountingAssertionError("0a"),
    TaskTimeoutError(
        task_name="f",
        task_id="0v",
        timeout_s=1.5,
        attempt=2,
        max_attempts=4,
        killed=True,
        traceback_str="KeyboardInterrupt",
    ),
]


@ways
@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_every_error_arrives_with_its_fields(
    error: RayError, carry: Callable[[BaseException], Any]
) -> None:
    arrived = carry(error)
    assert arrived is not error
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)
    assert (str(arrived), arrived.args) == (str(error), error.args)


def test_notes_arrive() -> None:
    error = NodeDiedError()
    error.add_note("it was a spot instance")
    assert by_pickle(error).__notes__ == ["it was a spot instance"]


def test_an_error_of_ours_that_a_user_extends_arrives() -> None:
    class Mine(RayError):
        def __init__(self, *, code: int) -> None:
            super().__init__(f"code {code}")
            self.code = code

    arrived = by_cloudpickle(Mine(code=3))
    assert (arrived.code, str(arrived)) == (3, "code 3")


# What they say.


def test_a_crash_tells_who_where_and_how() -> None:
    text = str(FULL[2])
    for part in ("f", "SIGSEGV", "task 0v", "attempt 2 of 4", "pid 12", "10.0.0.3", "agent a1"):
        assert part in text
    assert "    one\n    two" in text
    assert "s3://b/logs/a1/0" in text


@pytest.mark.parametrize(
    ("exit_code", "part"),
    [(-9, "memory"), (-11, "native code"), (3, "exit code 3"), (0, "exit code 0")],
)
def test_a_crash_tells_what_to_do_next(exit_code: int, part: str) -> None:
    assert part in str(WorkerCrashedError(task_name="f", exit_code=exit_code))


def test_a_crash_by_an_unknown_signal_names_its_number() -> None:
    assert WorkerCrashedError(exit_code=-250).signal_name == "signal 250"


def test_a_crash_without_limit_of_attempts_names_the_attempt_only() -> None:
    assert "attempt 7\n" in f"{WorkerCrashedError(attempt=7, max_attempts=-1)}\n"


def test_a_task_out_of_time_tells_which_its_limit_and_where_it_was() -> None:
    text = str(FULL[-1])
    for part in ("Task f (0v)", "timeout_s=1.5", "attempt 2 of 4", "killed", "KeyboardInterrupt"):
        assert part in text


def test_a_lost_object_tells_since_when() -> None:
    error = ObjectLostError("0a1b", date=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), reason="deleted")
    assert "0a1b is lost: deleted on 2026-01-02 03:04 UTC" in str(error)


def test_a_lost_object_has_a_reason_by_its_class() -> None:
    assert "freed" in str(ObjectFreedError("0a1b"))


def test_a_timeout_names_a_few_of_many() -> None:
    error = GetTimeoutError(pending=[f"f{number}" for number in range(9)])
    assert str(error).splitlines()[1:] == [
        "These 9 were pending:",
        *(f"  f{number}" for number in range(5)),
        "  and 4 more",
    ]
    assert len(error.pending) == 9


def test_a_timeout_may_be_about_one() -> None:
    error = GetTimeoutError(pending=["f (0v): running"], timeout_s=2.0)
    assert str(error).splitlines()[1:] == ["After 2 s this was pending:", "  f (0v): running"]


def test_an_actor_whose_constructor_raised_says_what() -> None:
    cause = raised(ValueError("no such colour"))
    error = ActorDiedError(cause, actor_id="0c")
    assert error.actor_init_failed
    assert error.cause is cause
    assert "ValueError: no such colour" in str(error)


# RayTaskError.


def test_a_task_error_is_also_an_instance_of_its_causes_class() -> None:
    error = as_raised(ValueError("no"))
    assert isinstance(error, RayTaskError)
    assert isinstance(error, ValueError)
    assert type(error).__name__ == "RayTaskError(ValueError)"


def test_a_task_error_shows_where_the_task_raised() -> None:
    text = str(raised(ValueError("no such colour"), pid=12, ip="10.0.0.3", task_id="0v"))
    first, *_, last = text.splitlines()
    assert first == "cloudray::f() (pid=12, ip=10.0.0.3, task=0v)"
    assert last == "ValueError: no such colour"
    assert f'File "{__file__}"' in text


def test_the_class_is_made_once() -> None:
    first, second = as_raised(ValueError(1)), as_raised(ValueError(2))
    assert type(first) is type(second)


def test_a_class_that_nothing_uses_any_more_is_forgotten() -> None:
    def use_one() -> None:
        class Passing(Exception):
            pass

        assert isinstance(as_raised(Passing()), Passing)

    use_one()
    gc.collect()  # the class of both, which lets go of the other
    gc.collect()
    assert not [found for found in Exception.__subclasses__() if found.__name__ == "Passing"]


@pytest.mark.parametrize(
    ("cause", "attribute", "value"),
    [
        (FileNotFoundError(2, "gone", "/x"), "errno", 2),
        (FileNotFoundError(2, "gone", "/x"), "filename", "/x"),
        (MyOSError("/y"), "filename", "/y"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "start", 0),
        (ImportError("no", name="colours"), "name", "colours"),
        (SyntaxError("bad", ("f.py", 3, 1, "x")), "lineno", 3),
        (KeyError("colour"), "args", ("colour",)),
        (StopIteration(7), "value", 7),
        (WithCode(3), "code", 3),
        (TwoArguments(3, detail="d"), "detail", "d"),
        (WithSlots(3), "code", 3),
        (WithProperty(3), "doubled", 6),
        (Frozen(3), "code", 3),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, Exception) else None,
)
@pytest.mark.parametrize(
    "carry", [lambda error: error, *WAYS], ids=["as it is", *map(str, range(4))]
)
def test_attributes_of_the_cause_are_readable_wherever_the_error_goes(
    cause: Exception, attribute: str, value: object, carry: Callable[[BaseException], Any]
) -> None:
    error: Any = carry(as_raised(cause))
    assert issubclass(type(error), type(cause))
    assert getattr(error, attribute) == value
    assert getattr(error.cause, attribute) == value


def test_methods_of_the_cause_work() -> None:
    assert as_raised(WithProperty(3)).tripled() == 9
    assert by_pickle(as_raised(WithPrivateSlot(3))).read() == 3


def test_a_field_of_the_cause_can_be_set() -> None:
    error = as_raised(FileNotFoundError(2, "gone"))
    error.strerror = "moved"
    assert error.strerror == error.cause.strerror == "moved"


def test_an_attribute_that_nobody_has_is_missing() -> None:
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = as_raised(ValueError()).nonesuch


@pytest.mark.parametrize("cause", [WithOurNames(), SlotWithOurName()])
def test_our_fields_win_over_the_causes_and_its_own_stay_on_it(cause: Any) -> None:
    error = by_pickle(raised(cause, pid=12).as_instanceof_cause())
    assert isinstance(error, type(cause))
    assert error.pid == 12
    assert error.cause.pid == "theirs"
    assert error.traceback_str != "theirs"


@pytest.mark.parametrize("cause", [Final(), WithMetaclass()])
def test_a_class_that_cannot_be_inherited_from_leaves_a_plain_error(cause: Exception) -> None:
    error = as_raised(cause)
    assert type(error) is RayTaskError
    assert error.cause is cause


@pytest.mark.parametrize(
    "cause",
    [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), BaseExceptionGroup("g", [SystemExit()])],
)
def test_what_would_act_on_the_receiver_leaves_a_plain_error(cause: BaseException) -> None:
    error = by_pickle(as_raised(cause))
    assert type(error) is RayTaskError
    assert type(error.cause) is type(cause)


def test_a_cause_that_a_task_error_is_anyway_leaves_a_plain_error() -> None:
    assert type(as_raised(Exception("no"))) is RayTaskError


def test_an_error_that_passes_through_tasks_stays_one_error() -> None:
    error = as_raised(ValueError("no"))
    for _ in range(3):
        error = by_pickle(as_raised(error))
    assert type(error).__name__ == "RayTaskError(ValueError)"
    assert type(error.cause) is ValueError


def test_an_error_that_passed_through_a_task_shows_both_tracebacks() -> None:
    text = str(raised(as_raised(ValueError("no"))))
    assert text.count("cloudray::f()") == 2
    assert text.splitlines()[-1] == "ValueError: no"


def test_an_exception_group_can_be_split() -> None:
    error = by_pickle(as_raised(ExceptionGroup("g", [ValueError(1), OSError(2)])))
    caught: list[Exception] = []
    try:
        raise error
    except* ValueError as group:
        caught += group.exceptions
    except* OSError:
        pass
    assert [type(part) for part in caught] == [ValueError]


def test_an_exception_group_with_its_own_constructor_is_an_instance_too() -> None:
    error = as_raised(OddGroup(3, [ValueError(1)]))
    assert isinstance(error, OddGroup)
    assert (error.code, error.message) == (3, "odd")


@ways
@pytest.mark.parametrize(
    "cause",
    [
        ValueError("no"),
        WithCode(3),
        TwoArguments(3, detail="d"),
        BrokenReduce(3, "d"),
        Frozen(3),
        MyOSError("/y"),
        ImportError("no", name="colours", path="/x"),
        KeyboardInterrupt(),
        Final(),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_a_task_error_arrives_whole(
    cause: BaseException, carry: Callable[[BaseException], Any]
) -> None:
    where = {"task_id": "0v", "pid": 12, "ip": "10.0.0.3", "agent": "a1", "job_id": "0j"}
    for error in (raised(cause, **where), raised(cause, **where).as_instanceof_cause()):
        arrived = carry(error)
        assert type(arrived) is type(error)
        assert {name: getattr(arrived, name) for name in where} == where
        assert (str(arrived), arrived.args) == (str(error), error.args)
        assert type(arrived.cause) is type(cause)
        assert str(arrived.cause) == str(cause)
        assert state_of(arrived.cause) == state_of(cause)


def test_a_cause_that_says_how_it_is_pickled_is_asked() -> None:
    arrived = by_pickle(as_raised(WithOwnReduce(3)))
    assert isinstance(arrived.cause, WithOwnReduce)
    assert arrived.cause.code == 3


def test_an_exception_class_of_the_main_script_is_the_drivers_own_when_it_returns() -> None:
    module = types.ModuleType("__main__")
    exec("class Mine(Exception): pass", vars(module))  # noqa: S102 - a class of a main script
    mine = module.Mine
    function = cloudpickle.dumps(lambda: mine("no"))
    at_work = pickle.loads(function)
    assert isinstance(pickle.loads(pickle.dumps(as_raised(at_work()))), mine)


def test_a_cause_that_cannot_be_pickled_is_replaced_and_the_traceback_kept() -> None:
    arrived = by_pickle(as_raised(WithLock()))
    assert isinstance(arrived, UnserializableException)
    assert "pickling it raised TypeError: cannot pickle '_thread.lock' object" in str(arrived)
    assert "WithLock: locked" in str(arrived)


def test_a_cause_that_cannot_be_loaded_is_replaced_and_the_traceback_kept() -> None:
    module = types.ModuleType("colours")
    sys.modules["colours"] = module
    try:
        exec("class Faded(Exception): pass", vars(module))  # noqa: S102 - a module that goes away
        body = pickle.dumps(as_raised(module.Faded("blue")))
    finally:
        del sys.modules["colours"]
    arrived = pickle.loads(body)
    assert isinstance(arrived, RayTaskError)
    assert "No module named 'colours'" in str(arrived)
    assert "Faded: blue" in str(arrived)


def test_an_error_that_nobody_catches_ends_with_what_the_task_raised() -> None:
    program = """
from cloudray import causes
from cloudray.exceptions import RayTaskError
try:
    {}["colour"]
except KeyError as error:
    raise RayTaskError("f", causes.format_traceback(error), error).as_instanceof_cause() from None
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "cloudray.exceptions.RayTaskError(KeyError): cloudray::f()" in done.stderr
    assert done.stderr.endswith("KeyError: 'colour'\n")
