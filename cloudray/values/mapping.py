"""Files as memory: mapped, so that all processes of a machine share their pages."""

from __future__ import annotations

import mmap
import os
import sys
from functools import cache
from typing import Any


def map_file(descriptor: int, *, private: bool = False) -> memoryview:
    """A file's bytes, shared with whoever maps it too; closing the descriptor changes nothing.

    Unlike `mmap.mmap` the mapping holds no descriptor: a process may keep as many values as it
    has memory for. It goes with the last view of it. When the system refuses another mapping
    (Linux has a limit of 65,530 for a process) the file is read instead.

    `private`: the memory may be written, and a page that is written becomes this process's own.
    Otherwise the view is read-only.
    """
    size_bytes = os.fstat(descriptor).st_size
    if not size_bytes:
        return memoryview(bytearray() if private else b"")
    try:
        view = _map(descriptor, size_bytes, private=private)
    except OSError:
        view = memoryview(_read(descriptor, size_bytes))
    return view if private else view.toreadonly()


def _read(descriptor: int, size_bytes: int) -> bytearray:
    body = bytearray(size_bytes)
    view = memoryview(body)
    position = 0
    while position < size_bytes and (count := os.preadv(descriptor, [view[position:]], position)):
        position += count
    return body


if sys.platform == "win32":

    def _map(descriptor: int, size_bytes: int, *, private: bool) -> memoryview:
        access = mmap.ACCESS_COPY if private else mmap.ACCESS_READ
        return memoryview(mmap.mmap(descriptor, size_bytes, access=access))

else:

    def _map(descriptor: int, size_bytes: int, *, private: bool) -> memoryview:
        import pickle
        import weakref

        ctypes, libc, memory = _system()
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if private else 0)
        # A private mapping reserves nothing for the pages that it may never write.
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0) if private else mmap.MAP_SHARED
        address = libc.mmap(None, size_bytes, protection, flags, descriptor, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), f"cannot map {size_bytes} bytes")
        owner = memory.from_address(address)
        # Not when the interpreter ends: somebody may still look at it then.
        weakref.finalize(owner, libc.munmap, address, size_bytes).atexit = False
        # A view of plain bytes, which ctypes does not give, that keeps the owner alive.
        return pickle.PickleBuffer(owner).raw()[:size_bytes]

    @cache
    def _system() -> tuple[Any, Any, Any]:
        import ctypes  # only who maps needs it

        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_longlong,
        )
        libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        # One type for all sizes, because each would be made anew: only what was mapped is used.
        return ctypes, libc, ctypes.c_ubyte * sys.maxsize
