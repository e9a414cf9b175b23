"""`remote`: functions whose calls run elsewhere."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import msgspec

from cloudray import context, departed
from cloudray.api.asked import shown
from cloudray.api.options import (
    TaskOptions,
    merge,
    said,
    validate_task_options,
    with_inherited,
)
from cloudray.api.prepare import pickle_function, prepare, refuse_unsupported
from cloudray.api.signature import Signature
from cloudray.api.tracebacks import shorten
from cloudray.code.wishes import Wishes
from cloudray.protocol.batching import MAX_INLINE_BYTES
from cloudray.values.arguments import NOTHING, pack_arguments
from cloudray.values.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from cloudray.api.typing import (
        P,
        R,
        RemoteArguments,
        RemoteDecorator,
        RemoteDecoratorReturning,
        Several,
        TypedRemoteFunction,
    )
    from cloudray.protocol.buffer import Prepared
    from cloudray.protocol.records import Code
    from cloudray.refs import ObjectRef


class RemoteFunction:
    """A function whose `.remote()` runs it on the cluster. Made by `remote`, not by hand."""

    def __init__(self, function: Callable[..., Any], options: TaskOptions) -> None:
        self._function = function
        self._options = options
        self._name = getattr(function, "__qualname__", repr(function))
        self._signature = Signature.of(function)
        self._fewest = self._signature.min_positional
        self._most = self._signature.max_positional
        self._names = self._signature.names
        self._pickled: bytes | None = None
        self._repeats = Repeats()
        #: what the client that was current at the last call wants for calls
        self._ready: tuple[context.Client, Prepared, int] | None = None
        functools.update_wrapper(self, function)

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function on the cluster; returns at once.

        Arguments are passed by value; an `ObjectRef` given directly (not inside a container)
        is replaced by the value it stands for. Returns an `ObjectRef`, a list of them when
        `num_returns` is above 1, or None when it is 0.

        Raises TypeError when the arguments do not fit the function's signature, or cannot be
        pickled (which is named), ValueError when the function is too large, and
        `ObjectLostError` for a ref of a cluster that was shut down.
        """
        try:
            if kwargs or not self._fewest <= len(args) <= self._most:
                self._signature.check(args, kwargs)
            # Before anything is asked of a cluster: what cannot be pickled changes nothing there.
            if args or kwargs:
                serialized, depends_on = pack_arguments(args, kwargs, self._name, self._names)
                if departed.jobs:
                    departed.refuse((*depends_on, *serialized.contains))
            else:
                serialized, depends_on = NOTHING, ()
            client = context.current() or context.client()
            ready = self._ready
            modules = client.modules
            if (
                ready is None
                or ready[0] is not client
                or (modules is not None and len(modules) != ready[2])
            ):
                ready = self._make_ready(client)
            if serialized.size_bytes > MAX_INLINE_BYTES:
                told = self._repeats.note(args, kwargs, serialized.size_bytes)
                if told is not None:
                    _warn_of_repeats(self._name, *told)
                # Held until the call names it: nothing else does.
                held = client.store_value(serialized.parts, serialized.contains)
                return client.submit(ready[1], b"", held.id, depends_on, serialized.contains)
            return client.submit(
                ready[1], serialized.to_bytes(), b"", depends_on, serialized.contains
            )
        except BaseException as error:
            shorten(error)
            raise

    def _make_ready(self, client: context.Client) -> tuple[context.Client, Prepared, int]:
        modules = client.modules
        # Counted before they are looked at: what is imported meanwhile is seen at the next call.
        count = 0 if modules is None else len(modules)
        prepared: Prepared = client.prepare(self, with_inherited(self._options))
        last = self._ready
        if last is not None and last[0] is client and last[1] == prepared:
            # The very same: calls of one function share what they have in common.
            prepared = last[1]
        ready = self._ready = (client, prepared, count)
        return ready

    def options(self, /, *positional: Any, **changes: Any) -> RemoteFunction:
        """The same function with other options, for one call or several.

        Takes what `remote` takes, as keywords, except `max_calls`.
        """
        if positional:
            msg = (
                f"options() takes keywords only, but received {shown(positional[0])}. Write for "
                f"example {self._name}.options(num_cpus=2)."
            )
            raise TypeError(msg)
        validate_task_options(changes, in_options=True)
        changed = RemoteFunction.__new__(RemoteFunction)
        changed.__dict__.update(self.__dict__)
        merged = merge(self._options, changes)
        refuse_unsupported(merged)
        changed._options = merged  # noqa: SLF001 - it is one of us
        changed._ready = None  # noqa: SLF001
        return changed

    def prepared(self, options: TaskOptions, code: Code) -> tuple[Prepared, bytes]:
        """For clients: the function with options and the code that it needs, and its pickle."""
        if self._pickled is None:
            self._pickled = pickle_function(self._function, self._name)
        return prepare(self._pickled, self._name, options, code), self._pickled

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refuse: a remote function runs elsewhere."""
        msg = (
            f"Remote functions cannot be called directly. Instead of running '{self._name}()', "
            f"try '{self._name}.remote()'."
        )
        raise TypeError(msg)

    def __repr__(self) -> str:
        return ", ".join([f"<remote function {self._name}", *said(self._options)]) + ">"

    def __reduce__(self) -> tuple[Callable[..., RemoteFunction], tuple[Any, ...]]:
        options = self._options
        client = context.current()
        if options.wishes and client is not None:
            # What lies on this machine may not be where it goes.
            packed = Wishes(packed=client.code_of(options))
            options = msgspec.structs.replace(options, wishes=packed)
        return RemoteFunction, (self._function, options)


@overload
def remote(
    function: Callable[P, Coroutine[Any, Any, R]], /
) -> TypedRemoteFunction[Callable[P, Coroutine[Any, Any, R]], ObjectRef[R]]: ...
@overload
def remote(
    function: Callable[P, Coroutine[Any, Any, R]], /
) -> TypedRemoteFunction[Callable[P, R], ObjectRef[R]]: ...
@overload
def remote(function: Callable[P, R], /) -> TypedRemoteFunction[Callable[P, R], ObjectRef[R]]: ...
@overload
def remote(  # type: ignore[overload-overlap] # 1 is an int too, and this comes first
    *, num_returns: Literal[1] | None = None, **options: Unpack[RemoteArguments]
) -> RemoteDecorator: ...
@overload
def remote(
    *, num_returns: Literal[0], **options: Unpack[RemoteArguments]
) -> RemoteDecoratorReturning[None]: ...
@overload
def remote(
    *, num_returns: Several, **options: Unpack[RemoteArguments]
) -> RemoteDecoratorReturning[list[ObjectRef[Any]]]: ...
@overload
def remote(
    *, num_returns: int, **options: Unpack[RemoteArguments]
) -> RemoteDecoratorReturning[Any]: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make a function remote: `f.remote(...)` runs it on the cluster and returns an `ObjectRef`.

    Used bare (`@remote`), with options (`@remote(num_cpus=2, max_retries=0)`), or as a call
    (`remote(function)`). The options are those of Ray's `ray.remote`; see `docs/options.md`.

    Raises TypeError or ValueError, in Ray's words, for an option that does not exist, a value
    of the wrong type, or positional options.

    >>> import cloudray
    >>> cloudray.remote(len)
    <remote function len>
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make(args[0], TaskOptions())
    if args or not options:
        msg = (
            "The @cloudray.remote decorator must be applied either with no arguments and no "
            "parentheses, for example '@cloudray.remote', or it must be applied using some of "
            "the options as keywords, for example '@cloudray.remote(num_returns=2, "
            f'resources={{"CustomResource": 1}})\'.{_received(args, options)}'
        )
        raise TypeError(msg)
    validate_task_options(options, in_options=False)
    chosen = merge(TaskOptions(), options)
    refuse_unsupported(chosen)
    return lambda function: _make(function, chosen)


def _received(args: tuple[Any, ...], options: dict[str, Any]) -> str:
    if not args:
        return " It received nothing: leave the parentheses out."
    if options and callable(args[0]):
        return " For a function and options write cloudray.remote(num_returns=2)(function)."
    return f" It received {', '.join(shown(given) for given in args)}."


def _make(function: Any, options: TaskOptions) -> RemoteFunction:
    if isinstance(function, RemoteFunction):
        msg = f"{function!r} is a remote function already: use .options() to change its options."
        raise TypeError(msg)
    if isinstance(function, type):
        msg = (
            f"Remote classes (actors) are not supported yet, and {function.__qualname__} is a "
            "class. Only functions can be remote in this version."
        )
        raise TypeError(msg)
    if not callable(function):
        msg = (
            "The @cloudray.remote decorator must be applied to a function, and "
            f"{shown(function)} is of type {type(function).__name__}."
        )
        raise TypeError(msg)
    return RemoteFunction(function, options)


def _warn_of_repeats(name: str, size_bytes: int, times: int) -> None:
    import warnings

    warnings.warn(
        f"The same argument of {size_bytes / 1e6:,.0f} MB was passed to {name} {times} times, and "
        "each call stores a copy of it. Tip: pass cloudray.put(value) instead of the value: it is "
        "then stored once.",
        stacklevel=3,  # who calls `.remote()`
    )
