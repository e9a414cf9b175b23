"""References to values that exist or will: what `.remote()` and `put` return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from cloudray import context, departed, ids

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator
    from concurrent.futures import Future

T = TypeVar("T")
_T_co = TypeVar("_T_co", covariant=True)


class ObjectRef(msgspec.Struct, Generic[_T_co], frozen=True, weakref=True):
    """A durable name for a value: hashable, picklable, and valid in any process of the cluster.

    Anything that lets a reference leave this process (`hex`, `binary`, pickling) first makes
    sure that the work it stands for has been stored, so a reference that got out never dangles.
    """

    id: bytes
    #: kept alive by all refs to the values of one batch in this process
    anchor: context.Anchor | None = None

    def binary(self) -> bytes:
        """The reference as 29 bytes."""
        context.escape(self.id)
        return self.id

    def hex(self) -> str:
        """The reference as 58 hexadecimal digits; `ObjectRef.from_hex` is the inverse."""
        return self.binary().hex()

    @classmethod
    def from_hex(cls, text: str) -> ObjectRef[Any]:
        """A reference from what `hex` returned, in this or any other process."""
        try:
            binary = bytes.fromhex(text)
        except (TypeError, ValueError):
            raise ValueError(
                f"an ObjectRef is made from {2 * ids.OBJECT_ID_BYTES} hexadecimal digits, as "
                f"ObjectRef.hex() returns them, and not from {text!r:.80}"
            ) from None
        return cls.from_binary(binary)

    @classmethod
    def from_binary(cls, binary: bytes) -> ObjectRef[Any]:
        """A reference from what `binary` returned."""
        if not isinstance(binary, bytes):
            raise TypeError(f"an ObjectRef is made from bytes, not from a {type(binary).__name__}")
        if len(binary) != ids.OBJECT_ID_BYTES:
            raise ValueError(
                f"an ObjectRef is {ids.OBJECT_ID_BYTES} bytes long, but this is {len(binary)}: "
                "use what ObjectRef.hex() or ObjectRef.binary() returned"
            )
        return cls(binary, context.anchor(binary))

    def task_id(self) -> str:
        """The id of the task that makes this value, as hexadecimal digits."""
        return self.id[: ids.BATCH_ID_BYTES + 2].hex()

    def job_id(self) -> str:
        """The id of the job that this value belongs to, as hexadecimal digits."""
        return ids.job_of(self.id).hex()

    def future(self) -> Future[_T_co]:
        """A `concurrent.futures.Future` that ends when the value exists."""
        if departed.jobs:
            departed.refuse((self.id,))
        future: Future[_T_co] = context.client().future(self)
        return future

    def as_future(self) -> asyncio.Future[_T_co]:
        """An `asyncio.Future` on the running event loop."""
        import asyncio  # a third of the package's import time, often not needed

        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, _T_co]:
        return self.as_future().__await__()

    def __repr__(self) -> str:
        return f"ObjectRef({ids.short(self.id)}, {context.describe(self.id)})"

    def __reduce__(self) -> tuple[Callable[[bytes], ObjectRef[Any]], tuple[bytes]]:
        context.note_contained(self.id, self)
        return _rebuild, (self.id,)

    def __del__(self) -> None:
        # Runs at any moment on any thread, so it only makes a note.
        anchor = self.anchor
        if anchor is not None:
            anchor.gone.add(self.id)

    def __copy__(self) -> ObjectRef[_T_co]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectRef[_T_co]:
        return self


def _rebuild(binary: bytes) -> ObjectRef[Any]:
    return ObjectRef(binary, context.anchor(binary))
