"""How many bytes lie in memory, counted by all processes of a cluster together.

Two numbers in a small file. Who changes them holds a lock on the file, and whatever he does to the
files that are counted he does under the same lock: so the numbers are exact whenever nobody holds
it. A process that is killed lets go of the lock, and may leave a number that is too high, never
one too low: bytes are counted before their file is made, and discounted after it is gone. Such a
number is healed by counting the files anew, which the agent does when a process was killed, and
whoever would be refused does first.
"""

from __future__ import annotations

import os
import struct
import threading
from types import TracebackType
from typing import Self

from cloudray.platform import lock_file, on_fork, unlock_file

_NUMBERS = struct.Struct("<QQ")
#: Held while the file is locked, by threads of this process, and by a fork: a child that inherited
#: the lock would keep it if its parent were killed just then.
_in_process = threading.RLock()
on_fork(_in_process.release, before=_in_process.acquire, in_parent=_in_process.release)


class Account:
    """The numbers, to be read and changed inside a `with` block, which Ctrl-C may not leave midway.

    So whoever may be interrupted writes `with Shield(), account as ...`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with Account(f"{folder}/account") as account:
    ...         account.change(used=100)
    ...     with Account(f"{folder}/account") as account:
    ...         account.used
    100
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        #: bytes of the values that are stored, or being written
        self.used = 0
        #: bytes of files that are kept to be written again
        self.spare = 0

    def create(self) -> None:
        """Make the file now, so that there need be no room for it later."""
        with self:
            self.change()

    def __enter__(self) -> Self:
        _in_process.acquire()
        try:
            # Opened anew each time: one that a fork shares would be locked for both.
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                lock_file(descriptor, wait=True)
                found = os.pread(descriptor, _NUMBERS.size, 0)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            self.used, self.spare = _NUMBERS.unpack(found.ljust(_NUMBERS.size, b"\0"))
        except BaseException:
            _in_process.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        try:
            # Closing it would not do while a child that native code has forked has it open too.
            unlock_file(descriptor)
        finally:
            os.close(descriptor)
            _in_process.release()

    def change(self, *, used: int = 0, spare: int = 0) -> None:
        """Add to the numbers, which a kill before a recount may have made too high or too low."""
        self.set(max(0, self.used + used), max(0, self.spare + spare))

    def set(self, used: int, spare: int) -> None:
        """Replace the numbers."""
        self.used, self.spare = used, spare
        os.pwrite(self._descriptor, _NUMBERS.pack(used, spare), 0)
