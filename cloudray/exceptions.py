"""Every error that CloudRay raises, under Ray's names.

    RayError
        RayTaskError                    raised as RayTaskError(ValueError), which is both
        TaskCancelledError
        TaskTimeoutError                also a TimeoutError
        TaskUnschedulableError
        TaskPlacementGroupRemoved
        GetTimeoutError                 also a TimeoutError
        WorkerCrashedError
        NodeDiedError
        LocalRayletDiedError
        OutOfMemoryError
        OutOfDiskError
        ObjectStoreFullError
        RuntimeEnvSetupError
        ObjectLostError
            ObjectFreedError
            ObjectFetchTimedOutError
            ObjectReconstructionFailedError
            OwnerDiedError
            ReferenceCountingAssertionError     also an AssertionError
        ObjectRefStreamEndOfStreamError
        RayActorError
            ActorDiedError
            ActorUnavailableError
        ActorUnschedulableError
        ActorPlacementGroupRemoved
        ActorAlreadyExistsError         also a ValueError
        ActorHandleNotFoundError        also a ValueError
        AsyncioActorExit
        PendingCallsLimitExceeded
        UnserializableException
        UserCodeException
        CrossLanguageError
        AuthenticationError
        RpcError
        PlasmaObjectNotAvailable
        OufOfBandObjectRefSerializationException
        RaySystemError
            StreamingGeneratorReplayInconsistentError
            RayChannelError
                RayChannelTimeoutError          also a TimeoutError
            RayCgraphCapacityExceeded
            RayDirectTransportError

All of them can be pickled and copied with their fields. Those that are never raised here exist
so that `except` clauses of Ray programs keep working.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

_CRASHES = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"})
_NAMES_SHOWN = 5


class RayError(Exception):
    """CloudRay could not do what was asked of it.

    The first paragraph of a subclass's docstring is its message when it is given none.

    >>> print(OutOfDiskError())
    The disk that holds objects is full.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or (_default_message(type(self)),)))

    def __reduce__(self) -> tuple[Callable[..., BaseException], tuple[Any, ...]]:
        from cloudray.causes import rebuild  # loads what only errors need

        return rebuild, (type(self), self.args, vars(self).copy())


def _default_message(error_class: type[BaseException]) -> str:
    paragraph = (error_class.__doc__ or error_class.__name__).partition("\n\n")[0]
    return " ".join(paragraph.split())


class RayTaskError(RayError):
    """A task raised an exception. Printed, it shows the traceback from where the task ran.

    `get` raises it `as_instanceof_cause`. It can always be pickled and unpickled: where its cause
    cannot follow, an `UnserializableException` stands in for it.

    >>> error = RayTaskError("f", "ValueError: no", ValueError("no")).as_instanceof_cause()
    >>> isinstance(error, ValueError), type(error).__name__, error.args
    (True, 'RayTaskError(ValueError)', ('no',))
    """

    # Values at class level, so that properties of the cause's class cannot hide ours.
    #: the function's qualified name
    function_name: str = ""
    #: the traceback as text, ending with the exception itself
    traceback_str: str = ""
    #: what the task raised
    cause: BaseException | None = None
    #: the task that raised it, as text; empty when unknown
    task_id: str = ""
    #: the executor's process; None when unknown
    pid: int | None = None
    #: the machine's address or name
    ip: str = ""
    #: the agent on that machine
    agent: str = ""
    #: the job that the task belongs to
    job_id: str = ""

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException | None,
        *,
        task_id: str = "",
        pid: int | None = None,
        ip: str = "",
        agent: str = "",
        job_id: str = "",
    ) -> None:
        super().__init__(function_name, traceback_str)
        # However many tasks an error passes through, its cause is what the first one raised.
        self.cause = cause.cause if isinstance(cause, RayTaskError) else cause
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.task_id = task_id
        self.pid = pid
        self.ip = ip
        self.agent = agent
        self.job_id = job_id

    def as_instanceof_cause(self) -> RayTaskError:
        """The same error, as an instance of its cause's class too, so that `except` finds it.

        The attributes of the cause can be read on it. What nothing may inherit from, and what
        would act on the process that receives it (a remote `sys.exit` must not end the driver),
        stays as it is.
        """
        if type(self) is not RayTaskError or self.cause is None:
            return self
        cause_class = type(self.cause)
        if not issubclass(cause_class, Exception) or issubclass(RayTaskError, cause_class):
            return self
        args = self.cause.args
        if isinstance(self.cause, BaseExceptionGroup):
            args = (self.cause.message, self.cause.exceptions)
        from cloudray.causes import class_of_both, rebuild

        try:
            both = class_of_both(RayTaskError, cause_class)
            error: Any = rebuild(both, args, {})
        except Exception:  # noqa: BLE001 - the class refuses; the error must be raised all the same
            return self
        vars(error).update(vars(self))
        raised: RayTaskError = error
        if issubclass(cause_class, SyntaxError):
            # Python prints those its own way, without what we have to say.
            raised.__notes__ = [str(raised)]
        return raised

    def __str__(self) -> str:
        where = {"pid": self.pid, "ip": self.ip, "task": self.task_id}
        known = ", ".join(f"{name}={value}" for name, value in where.items() if value)
        lines = [f"cloudray::{self.function_name}()" + (f" ({known})" if known else "")]
        lines.append(self.traceback_str.rstrip("\n"))
        if isinstance(self.cause, UnserializableException) and self.cause.reason:
            lines.append(f"(The exception itself could not be sent: {self.cause.reason})")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Callable[..., BaseException], tuple[Any, ...]]:
        state = {name: value for name, value in vars(self).items() if name != "cause"}
        return _load_task_error, (state, self._dump_cause(), type(self) is not RayTaskError)

    def _dump_cause(self) -> bytes | None:
        if self.cause is None:
            return None
        from cloudray.causes import dumps

        try:
            return dumps(self.cause)
        except Exception as error:  # noqa: BLE001 - the cause's class may raise anything
            reason = f"pickling it raised {type(error).__name__}: {error}"
            return dumps(UnserializableException(self.traceback_str, reason=reason))

    def __copy__(self) -> RayTaskError:
        twin = RayTaskError(self.function_name, self.traceback_str, self.cause)
        vars(twin).update(vars(self))
        return twin if type(self) is RayTaskError else twin.as_instanceof_cause()


def _load_task_error(
    state: dict[str, Any],
    cause: bytes | None,
    as_cause: bool,  # noqa: FBT001 - pickle passes arguments by position
) -> RayTaskError:
    error = RayTaskError(state["function_name"], state["traceback_str"], None)
    vars(error).update(state)
    if cause is not None:
        from cloudray.causes import loads

        try:
            error.cause = loads(cause)
        except Exception as problem:  # noqa: BLE001 - its module may be missing here, or worse
            reason = f"unpickling it raised {type(problem).__name__}: {problem}"
            error.cause = UnserializableException(error.traceback_str, reason=reason)
    return error.as_instanceof_cause() if as_cause else error


class TaskCancelledError(RayError):
    """The task, or one that it needs a value of, was cancelled.

    >>> print(TaskCancelledError("0v1c"))
    Task 0v1c was cancelled.
    """

    def __init__(self, task_id: str | None = None, error_message: str | None = None) -> None:
        message = f"Task {task_id} was cancelled." if task_id else _default_message(type(self))
        super().__init__(f"{message} {error_message}" if error_message else message)
        self.task_id = task_id
        self.error_message = error_message


class TaskTimeoutError(RayError, TimeoutError):
    """The task ran longer than its `timeout_s` allows.

    >>> print(TaskTimeoutError(task_name="train", task_id="0v1c", timeout_s=2.5, attempt=1))
    Task train (0v1c) was stopped after 2.5 s (timeout_s=2.5, attempt 1).
    Give it more time with timeout_s=..., or None for as long as it takes.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        task_name: str = "",
        task_id: str = "",
        timeout_s: float | None = None,
        attempt: int = 0,
        max_attempts: int = 0,
        killed: bool = False,
        traceback_str: str = "",
    ) -> None:
        #: the function's qualified name
        self.task_name = task_name
        #: as text
        self.task_id = task_id
        #: what the task was allowed, in seconds
        self.timeout_s = timeout_s
        #: which run of the task this was, from 1; 0 when unknown
        self.attempt = attempt
        #: how many runs were allowed; 0 when timeouts are not retried, -1 when there is no limit
        self.max_attempts = max_attempts
        #: it did not end when it was interrupted, so its process was killed
        self.killed = killed
        #: where it was when it was interrupted, as text; empty when unknown
        self.traceback_str = traceback_str
        text = self._message() if task_name else _default_message(type(self))
        super().__init__(message or text)

    def _message(self) -> str:
        of = f" of {self.max_attempts}" if self.max_attempts > 0 else ""
        limit = "its limit" if self.timeout_s is None else f"{self.timeout_s:g} s"
        facts = [
            "" if self.timeout_s is None else f"timeout_s={self.timeout_s:g}",
            f"attempt {self.attempt}{of}" if self.attempt else "",
        ]
        known = ", ".join(fact for fact in facts if fact)
        who = f"{self.task_name} ({self.task_id})" if self.task_id else self.task_name
        text = f"Task {who} was stopped after {limit}" + (f" ({known})." if known else ".")
        if self.killed:
            text += " It did not end when it was interrupted, so its process was killed."
        if self.traceback_str:
            text += f"\nIt was interrupted here:\n{self.traceback_str}"
        return f"{text}\nGive it more time with timeout_s=..., or None for as long as it takes."


class TaskUnschedulableError(RayError):
    """No machine can ever run this task."""

    def __init__(self, error_message: str = "") -> None:
        super().__init__(*_labelled("The task is not schedulable", error_message))
        self.error_message = error_message


def _labelled(label: str, message: str) -> tuple[str, ...]:
    """The one argument of an error, or none to leave it with its default message."""
    return (f"{label}: {message}",) if message else ()


class TaskPlacementGroupRemoved(RayError):  # noqa: N818 - Ray's name
    """The placement group that this task was to run in was removed."""


class GetTimeoutError(RayError, TimeoutError):
    """Get timed out: some object(s) not ready.

    >>> print(GetTimeoutError(pending=["train (0v1c)", "score (0v2c)"], timeout_s=0.5))
    Get timed out: some object(s) not ready.
    After 0.5 s these 2 were pending:
      train (0v1c)
      score (0v2c)
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        pending: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> None:
        text = message or _default_message(type(self))
        if pending:
            after = "" if timeout_s is None else f"After {timeout_s:g} s "
            shown = [f"  {line}" for line in pending[:_NAMES_SHOWN]]
            rest = len(pending) - _NAMES_SHOWN
            shown += [f"  and {rest} more"] if rest > 0 else []
            these = f"{after}{'these' if after else 'These'} {len(pending)} were"
            these = f"{after}{'this' if after else 'This'} was" if len(pending) == 1 else these
            text = "\n".join([text, f"{these} pending:", *shown])
        super().__init__(text)
        #: what was waited for and is not ready, and why, in the order asked for
        self.pending = tuple(pending)
        self.timeout_s = timeout_s


class WorkerCrashedError(RayError):
    """The worker process died unexpectedly while executing this task.

    >>> print(WorkerCrashedError(task_name="f", exit_code=-9, attempt=4, max_attempts=4))
    The worker process that ran f died: killed by SIGKILL.
      attempt 4 of 4
    SIGKILL often comes from the kernel when memory runs out: give the task more (memory=...).
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        task_name: str = "",
        task_id: str = "",
        attempt: int = 0,
        max_attempts: int = 0,
        pid: int | None = None,
        exit_code: int | None = None,
        ip: str = "",
        agent: str = "",
        last_lines: Sequence[str] = (),
        log: str = "",
    ) -> None:
        #: the function's qualified name
        self.task_name = task_name
        #: as text
        self.task_id = task_id
        #: which run of the task this was, from 1; 0 when unknown
        self.attempt = attempt
        #: how many runs `max_retries` allows; 0 when unknown, -1 when there is no limit
        self.max_attempts = max_attempts
        #: the process that died; None when it is not one process that died
        self.pid = pid
        #: as `subprocess` has it: minus the signal's number when a signal killed it
        self.exit_code = exit_code
        #: the machine's address or name
        self.ip = ip
        self.agent = agent
        #: the last lines that the process printed
        self.last_lines = tuple(last_lines)
        #: where to read all of them
        self.log = log
        super().__init__(message or self._message())

    @property
    def signal_name(self) -> str | None:
        """The signal that killed the process, e.g. SIGKILL; None when none did."""
        if self.exit_code is None or self.exit_code >= 0:
            return None
        try:
            return signal.Signals(-self.exit_code).name
        except ValueError:
            return f"signal {-self.exit_code}"

    def _message(self) -> str:
        how = "it is not known how"
        if self.exit_code is not None:
            how = f"it left with exit code {self.exit_code}"
        if self.signal_name:
            how = f"killed by {self.signal_name}"
        if not self.task_name and self.exit_code is None:
            lines = [_default_message(type(self))]
        else:
            lines = [f"The worker process that ran {self.task_name or 'this task'} died: {how}."]
        if where := self._where():
            lines.append(f"  {where}")
        if self.last_lines:
            lines.append("  the last lines that it printed:")
            lines += [f"    {line}" for line in self.last_lines]
        if self.log:
            lines.append(f"  its log: {self.log}")
        return "\n".join([*lines, *self._advice()])

    def _where(self) -> str:
        attempt = f"attempt {self.attempt}" if self.attempt else ""
        if self.attempt and self.max_attempts > 0:
            attempt += f" of {self.max_attempts}"
        facts = (
            self.task_id and f"task {self.task_id}",
            attempt,
            self.pid and f"pid {self.pid}",
            self.ip and f"on {self.ip}",
            self.agent and f"agent {self.agent}",
        )
        return ", ".join(fact for fact in facts if fact)

    def _advice(self) -> list[str]:
        if self.signal_name == "SIGKILL":
            advice = (
                "SIGKILL often comes from the kernel when memory runs out: "
                "give the task more (memory=...)."
            )
        elif self.signal_name in _CRASHES:
            advice = (
                f"{self.signal_name} is a crash in native code: "
                "look at the libraries that the task uses."
            )
        elif self.exit_code is not None and self.exit_code >= 0:
            advice = "A task should return or raise; something in it ended the process."
        else:
            return []
        return [advice]


class NodeDiedError(RayError):
    """The machine that ran this died."""


class LocalRayletDiedError(RayError):
    """The agent on this machine died."""


class OutOfMemoryError(RayError):
    """The machine that ran this ran out of memory."""


class OutOfDiskError(RayError):
    """The disk that holds objects is full."""


class ObjectStoreFullError(RayError):
    """The memory that holds objects is full."""


class RuntimeEnvSetupError(RayError):
    """Failed to set up runtime environment."""

    def __init__(self, error_message: str | None = None) -> None:
        text = _default_message(RuntimeEnvSetupError)
        super().__init__(f"{text}\n{error_message}" if error_message else text)
        self.error_message = error_message


class ObjectLostError(RayError):
    """The value that a reference names is gone.

    >>> when = datetime(2026, 11, 24, 6, 49, tzinfo=UTC)
    >>> print(ObjectLostError("0a1b", date=when, reason="its job was deleted"))
    Object 0a1b is lost: its job was deleted on 2026-11-24 06:49 UTC. Run what made it again.
    """

    #: why, when the raiser does not say
    default_reason: ClassVar[str] = "no copy of it is left"

    def __init__(
        self, object_ref_hex: str = "", *, date: datetime | None = None, reason: str = ""
    ) -> None:
        self.object_ref_hex = object_ref_hex
        #: since when, UTC; None when unknown
        self.date = date
        self.reason = reason or self.default_reason
        when = ""
        if date is not None:
            when = f" on {date.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        which = f"Object {object_ref_hex}" if object_ref_hex else "An object"
        super().__init__(f"{which} is lost: {self.reason}{when}. Run what made it again.")


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand."""

    default_reason = "it was freed by hand"


class ObjectFetchTimedOutError(ObjectLostError):
    """The object could not be read in time."""

    default_reason = "it could not be read in time"


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost, and the task that makes it may not run again."""

    default_reason = "no copy of it is left and the task that makes it may not run again"


class OwnerDiedError(ObjectLostError):
    """The attempt that submitted the task is over, and another attempt's result stands."""

    default_reason = (
        "the attempt of a task that submitted it died, and another attempt took its place"
    )


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was deleted while a reference to it was in use."""

    default_reason = "it was deleted while a reference to it was in use"


class ObjectRefStreamEndOfStreamError(RayError):
    """The generator has no more items."""


class RayActorError(RayError):
    """The actor experienced an error before finishing this task."""

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = "",
        actor_init_failed: bool = False,  # noqa: FBT001, FBT002 - Ray's signature
        preempted: bool = False,  # noqa: FBT001, FBT002 - Ray's signature
    ) -> None:
        super().__init__(*([error_msg] if error_msg else []))
        #: as hexadecimal digits; None when unknown
        self.actor_id = actor_id
        self.error_msg = str(self)
        #: its constructor raised
        self.actor_init_failed = actor_init_failed
        #: its machine was taken away
        self.preempted = preempted


class ActorDiedError(RayActorError):
    """The actor died unexpectedly before finishing this task.

    >>> print(ActorDiedError("its last handle is gone", actor_id="0a1b"))
    The actor 0a1b died: its last handle is gone
    """

    def __init__(
        self,
        cause: RayTaskError | str | None = None,
        *,
        actor_id: str | None = None,
        preempted: bool = False,
    ) -> None:
        which = f"The actor {actor_id}" if actor_id else "The actor"
        message = f"{which} died: {cause}" if cause else ""
        if isinstance(cause, RayTaskError):
            message = f"{which} died because of an error raised in its creation task, {cause}"
        super().__init__(actor_id, message, isinstance(cause, RayTaskError), preempted)
        #: what its constructor raised, or why it died
        self.cause = cause


class ActorUnavailableError(RayActorError):
    """The actor is unavailable for now."""

    def __init__(self, error_message: str, actor_id: str | None = None) -> None:
        which = f"The actor {actor_id}" if actor_id else "The actor"
        text = f"{which} is unavailable: {error_message}. The call may or may not have been made."
        super().__init__(actor_id, text)


class ActorUnschedulableError(RayError):
    """No machine can ever run this actor."""

    def __init__(self, error_message: str = "") -> None:
        super().__init__(*_labelled("The actor is not schedulable", error_message))
        self.error_message = error_message


class ActorPlacementGroupRemoved(RayError):  # noqa: N818 - Ray's name
    """The placement group that this actor was to run in was removed."""


class ActorAlreadyExistsError(RayError, ValueError):
    """An actor of this name exists."""


class ActorHandleNotFoundError(RayError, ValueError):
    """There is no such actor."""


class AsyncioActorExit(RayError):  # noqa: N818 - Ray's name
    """Raised inside an asynchronous actor to end it."""


class PendingCallsLimitExceeded(RayError):  # noqa: N818 - Ray's name
    """The actor has `max_pending_calls` calls waiting: wait for some of them."""


class UnserializableException(RayError):  # noqa: N818 - Ray's name
    """Stands for an exception that could not be pickled, or not unpickled here.

    >>> print(UnserializableException("ValueError: no", reason="no module named 'colours'"))
    An exception could not be carried here: no module named 'colours'.
    Original exception:
    ValueError: no
    """

    def __init__(self, original_stack_trace: str = "", *, reason: str = "") -> None:
        #: the traceback from where it was raised
        self.original_stack_trace = original_stack_trace
        self.reason = reason
        why = f": {reason}" if reason else ""
        text = f"An exception could not be carried here{why}."
        if original_stack_trace:
            text += f"\nOriginal exception:\n{original_stack_trace}"
        super().__init__(text)


class UserCodeException(RayError):  # noqa: N818 - Ray's name
    """The user's code raised."""


class CrossLanguageError(RayError):
    """A task in another language failed."""


class AuthenticationError(RayError):
    """The cluster refused these credentials."""


class RpcError(RayError):
    """A call to another process of the cluster failed."""

    def __init__(self, message: str = "", rpc_code: int | None = None) -> None:
        super().__init__(*([message] if message else []))
        self.rpc_code = rpc_code


class PlasmaObjectNotAvailable(RayError):  # noqa: N818 - Ray's name
    """The object is not on this machine."""


class OufOfBandObjectRefSerializationException(RayError):  # noqa: N818 - Ray's name, typo too
    """A reference was pickled outside of CloudRay."""


class RaySystemError(RayError):
    """Something inside CloudRay failed."""

    def __init__(
        self,
        client_exc: object = None,
        traceback_str: str | None = None,
        *,
        message: str | None = None,
    ) -> None:
        text = _default_message(type(self)) if client_exc is None else f"System error: {client_exc}"
        text = text if message is None else message
        super().__init__(text if traceback_str is None else f"{text}\ntraceback: {traceback_str}")
        self.client_exc = client_exc
        self.traceback_str = traceback_str


class StreamingGeneratorReplayInconsistentError(RaySystemError):
    """A generator that ran again yielded something else."""


class RayChannelError(RaySystemError):
    """A channel between processes failed."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A channel between processes timed out."""


class RayCgraphCapacityExceeded(RaySystemError):  # noqa: N818 - Ray's name
    """A compiled graph has as many runs under way as it may."""


class RayDirectTransportError(RaySystemError):
    """A direct transfer between processes failed."""
