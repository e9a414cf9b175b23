"""What type checkers see of remote functions.

`remote` turns a function into a `TypedRemoteFunction`, which keeps the function's own type and
what `.remote()` returns:

    @remote
    def f(a: int, b: str = "x") -> float: ...

    f                       TypedRemoteFunction[(a: int, b: str = "x") -> float, ObjectRef[float]]
    f.remote(1, b="y")      checked as a call of `f`
    f.remote(ref_to_int)    each positional argument may be a reference to a value of its type
    f(1)                    an error: there is no `__call__`
    f.options(num_cpus=2)   the same type; `num_returns` changes what `.remote()` returns

Nothing here runs. Python has no way to say "the parameters of `f`, each of which may also be a
reference", so there is one overload for each number of leading positional arguments that may
be references, up to ten; what follows them, keywords included, is checked as in a plain call.
A reference given by keyword works but is an error to a type checker: give it by position.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import (
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from cloudray.refs import ObjectRef

P = ParamSpec("P")
#: The parameters after those that may be references.
Rest = ParamSpec("Rest")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Returned = TypeVar("Returned")
F_co = TypeVar("F_co", bound=Callable[..., Any], covariant=True)
Returned_co = TypeVar("Returned_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
T0 = TypeVar("T0")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")
T7 = TypeVar("T7")
T8 = TypeVar("T8")
T9 = TypeVar("T9")

#: The counts for which `.remote()` is known to return a list.
Several = Literal[2, 3, 4, 5, 6, 7, 8, 9, 10]


class OptionArguments(TypedDict, total=False):
    """Keywords of `.options()` except `num_returns`; `cloudray.api.options` says what they do."""

    num_cpus: float | None
    num_gpus: float | None
    memory: float | None
    resources: dict[str, float] | None
    max_retries: int | None
    retry_exceptions: bool | list[type[Exception]] | tuple[type[Exception], ...]
    timeout_s: float | None
    name: str | None
    runtime_env: dict[str, Any] | None
    scheduling_strategy: str | None
    accelerator_type: str | None
    label_selector: dict[str, str] | None
    fallback_strategy: list[dict[str, Any]] | None
    enable_task_events: bool
    placement_group: str | None
    placement_group_bundle_index: int | None
    placement_group_capture_child_tasks: bool | None
    _labels: dict[str, str] | None
    _metadata: dict[str, Any] | None
    _generator_backpressure_num_objects: int | None
    _num_objects_per_yield: int | None


class RemoteArguments(OptionArguments, total=False):
    """Keywords of `remote()` except `num_returns`."""

    max_calls: int | None


class Variadic(Protocol[T_contra]):
    """A function that takes any number of positional arguments of one type."""

    def __call__(self, *args: T_contra) -> Any: ...  # noqa: D102 - the class says it


class TypedRemoteFunction(Protocol[F_co, Returned_co]):
    """A function of type `F_co` that runs elsewhere; `.remote()` returns `Returned_co`."""

    @overload
    def remote(
        self: TypedRemoteFunction[Callable[P, Any], Returned], *args: P.args, **kwargs: P.kwargs
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[Callable[Concatenate[T0, Rest], Any], Returned],
        a0: T0 | ObjectRef[T0],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[Callable[Concatenate[T0, T1, Rest], Any], Returned],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[Callable[Concatenate[T0, T1, T2, Rest], Any], Returned],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[Callable[Concatenate[T0, T1, T2, T3, Rest], Any], Returned],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[Callable[Concatenate[T0, T1, T2, T3, T4, Rest], Any], Returned],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[
            Callable[Concatenate[T0, T1, T2, T3, T4, T5, Rest], Any], Returned
        ],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        a5: T5 | ObjectRef[T5],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[
            Callable[Concatenate[T0, T1, T2, T3, T4, T5, T6, Rest], Any], Returned
        ],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        a5: T5 | ObjectRef[T5],
        a6: T6 | ObjectRef[T6],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[
            Callable[Concatenate[T0, T1, T2, T3, T4, T5, T6, T7, Rest], Any], Returned
        ],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        a5: T5 | ObjectRef[T5],
        a6: T6 | ObjectRef[T6],
        a7: T7 | ObjectRef[T7],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[
            Callable[Concatenate[T0, T1, T2, T3, T4, T5, T6, T7, T8, Rest], Any], Returned
        ],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        a5: T5 | ObjectRef[T5],
        a6: T6 | ObjectRef[T6],
        a7: T7 | ObjectRef[T7],
        a8: T8 | ObjectRef[T8],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[
            Callable[Concatenate[T0, T1, T2, T3, T4, T5, T6, T7, T8, T9, Rest], Any], Returned
        ],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        a5: T5 | ObjectRef[T5],
        a6: T6 | ObjectRef[T6],
        a7: T7 | ObjectRef[T7],
        a8: T8 | ObjectRef[T8],
        a9: T9 | ObjectRef[T9],
        /,
        *args: Rest.args,
        **kwargs: Rest.kwargs,
    ) -> Returned: ...
    @overload
    def remote(
        self: TypedRemoteFunction[Variadic[T0], Returned],
        first: T0 | ObjectRef[T0],
        /,
        *rest: T0 | ObjectRef[T0],
    ) -> Returned: ...

    @overload
    def options(
        self, *, num_returns: Literal[0], **options: Unpack[OptionArguments]
    ) -> TypedRemoteFunction[F_co, None]: ...
    @overload
    def options(
        self, *, num_returns: Literal[1], **options: Unpack[OptionArguments]
    ) -> TypedRemoteFunction[F_co, ObjectRef[Any]]: ...
    @overload
    def options(
        self, *, num_returns: Several, **options: Unpack[OptionArguments]
    ) -> TypedRemoteFunction[F_co, list[ObjectRef[Any]]]: ...
    @overload
    def options(
        self, *, num_returns: int, **options: Unpack[OptionArguments]
    ) -> TypedRemoteFunction[F_co, Any]: ...
    @overload
    def options(
        self, *, num_returns: None = None, **options: Unpack[OptionArguments]
    ) -> TypedRemoteFunction[F_co, Returned_co]: ...


class RemoteDecorator(Protocol):
    """What `remote(...)` with keywords returns when calls return one reference."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> TypedRemoteFunction[Callable[P, R], ObjectRef[R]]: ...
    @overload
    def __call__(
        self, function: Callable[P, R], /
    ) -> TypedRemoteFunction[Callable[P, R], ObjectRef[R]]: ...


class RemoteDecoratorReturning(Protocol[Returned_co]):
    """What `remote(...)` with keywords returns when `num_returns` says what calls return."""

    def __call__(  # noqa: D102 - the class says it
        self, function: F, /
    ) -> TypedRemoteFunction[F, Returned_co]: ...
