"""Calls that take long, on a thread beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function on a thread; on this one when the interpreter ends.

    Then pools take nothing any more, and what a program has submitted is stored nevertheless.
    """
    call = partial(function, *args, **kwargs)
    loop = asyncio.get_running_loop()
    try:
        future = loop.run_in_executor(None, call)
    except RuntimeError:
        return call()
    return await future
