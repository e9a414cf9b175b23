"""Errors as if they came from the user's own line: without the frames in between.

A bare `raise` in the public function adds no frame of its own, so after `shorten` the traceback
begins where that function was called:

    except BaseException as error:
        shorten(error)
        raise

The setting `traceback="full"` (or CLOUDRAY_TRACEBACK=full) keeps everything.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from cloudray import configuration
from cloudray.exceptions import RayError

_OURS = f"{Path(__file__).parents[1]}{os.sep}"
#: What is raised here in order to tell the user something; what else is raised here is a bug.
_DELIBERATE = (RayError, TypeError, ValueError, RuntimeError, ConnectionError, KeyboardInterrupt)


def shorten(error: BaseException) -> None:
    """Remove our own frames from a traceback, as far as they lead to nobody else's."""
    if _is_full():
        return
    _shorten(error, deliberate=isinstance(error, _DELIBERATE))
    seen = {id(error)}
    waiting = [error.__cause__, error.__context__]
    while waiting:
        linked = waiting.pop()
        if linked is not None and id(linked) not in seen:
            seen.add(id(linked))
            # Why something was raised deliberately is told by what is raised.
            _shorten(linked, deliberate=isinstance(error, _DELIBERATE))
            waiting += [linked.__cause__, linked.__context__]


def cut(trace: TracebackType | None) -> None:
    """End a traceback where the user's code called ours, for who cares only where that was."""
    while not _is_full() and trace is not None and trace.tb_next is not None:
        if _is_ours(trace.tb_next):
            trace.tb_next = None
        trace = trace.tb_next


def _is_full() -> bool:
    chosen = configuration.current().traceback
    return "full" in {chosen, os.environ.get("CLOUDRAY_TRACEBACK")}


def _shorten(error: BaseException, *, deliberate: bool) -> None:
    if isinstance(error, KeyboardInterrupt):
        # Where it came is chance, and so is what was being handled there.
        if not _has_theirs(error.__traceback__):
            # What was waited for lives as long as the frames do, and may still be asked about.
            error.waited_in = error.__traceback__  # type: ignore[attr-defined]
            error.__traceback__ = None
        context = error.__context__
        while context is not None and not _has_theirs(context.__traceback__):
            context = error.__context__ = context.__context__
        return
    theirs = error.__traceback__
    while theirs is not None and _is_ours(theirs):
        theirs = theirs.tb_next
    if theirs is not None or deliberate:
        error.__traceback__ = theirs


def _has_theirs(trace: TracebackType | None) -> bool:
    """Whether a traceback begins in code that is not ours: the rest is what that called."""
    return trace is not None and not _is_ours(trace)


def _is_ours(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith(_OURS)
