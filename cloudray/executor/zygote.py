"""A process that has loaded everything executors need, and forks one when asked.

A fork takes milliseconds where a fresh interpreter takes a tenth of a second, and the loaded
code is in memory once for all executors. The zygote has a single thread and opens nothing, so
what it forks is clean. It is asked over a socket by its agent, and ends with it.

    agent: {"token", "progress", "env"} and two descriptors    zygote: {"token", "pid"}
    agent: {"reap": pid}, once it has seen the executor end    zygote: {"pid", "status"}

An executor that has ended stays a zombie until the agent says so, and thus keeps its number:
the agent can end what is left of its process group without hitting a stranger.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import msgspec

from cloudray.platform import die_with_parent, name_process

_MESSAGE_BYTES = 1 << 16
#: Standard output and error of an executor.
_DESCRIPTORS = 2


class StartRequest(msgspec.Struct, frozen=True):
    """What a new executor needs to know."""

    #: by which the agent recognises it
    token: str
    #: the file in which it says which call it is at
    progress: str
    env: dict[str, str]


class Output(msgspec.Struct, frozen=True):
    """The pipes of an executor's standard output and error."""

    #: the ends that the agent keeps
    read: tuple[int, int]
    #: the ends that the executor gets
    write: tuple[int, int]


def request_start(spool: Path, env: dict[str, str]) -> tuple[StartRequest, Output]:
    """Make what a new executor needs: its token, its progress file, its pipes."""
    token = os.urandom(8).hex()
    progress = spool / f"{token}.progress"
    progress.write_bytes(bytes(mmap.PAGESIZE))
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    return (
        StartRequest(token, str(progress), env),
        Output((out_read, err_read), (out_write, err_write)),
    )


def fork_zygote(
    socket_path: str, first: StartRequest, output: tuple[int, int], preload: tuple[str, ...]
) -> tuple[int, socket.socket]:
    """Fork a zygote, which forks a `first` executor at once; returns its pid and its socket.

    It loads the modules `preload` before it forks another.

    To be called while this process has a single thread and has loaded little else.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        for descriptor in output:
            os.close(descriptor)
        return pid, ours
    try:
        _be_zygote(theirs, socket_path, first, output, preload)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        # Whatever goes wrong, this process must not go on as a second agent.
        os._exit(1)


def _be_zygote(
    control: socket.socket,
    socket_path: str,
    first: StartRequest,
    output: tuple[int, int],
    preload: tuple[str, ...],
) -> NoReturn:
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        os._exit(0)
    os.setsid()
    name_process("cloudray-zygote")
    _keep_only({0, 1, 2, control.fileno(), *output})
    _silence_input()
    # Loaded here and not by the agent before the fork: the two load their halves side by side.
    import cloudray.executor.serve  # noqa: F401

    # What is loaded now stays for ever: keep the collector from touching, and copying, its pages.
    gc.collect()
    gc.freeze()
    _fork_executor(control, socket_path, first, output)
    while True:
        body, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _DESCRIPTORS)
        if not body:
            _reap_all()
            os._exit(0)
        request: dict[str, Any] = msgspec.msgpack.decode(body)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            status = os.waitstatus_to_exitcode(status)
            control.send(msgspec.msgpack.encode({"pid": request["reap"], "status": status}))
        else:
            # The first executor was wanted too soon to wait for these.
            for module in preload:
                import_module(module)
            out, err = descriptors
            _fork_executor(control, socket_path, msgspec.convert(request, StartRequest), (out, err))


def _reap_all() -> None:
    """The agent has ended its executors: leave no zombie of them to whoever adopts orphans."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _fork_executor(
    control: socket.socket, socket_path: str, request: StartRequest, output: tuple[int, int]
) -> None:
    zygote = os.getpid()
    pid = os.fork()
    if pid:
        for descriptor in output:
            os.close(descriptor)
        control.send(msgspec.msgpack.encode({"token": request.token, "pid": pid}))
        return
    try:
        die_with_parent()
        if os.getppid() != zygote:
            os._exit(0)
        os.setsid()
        name_process("cloudray-exec")
        for standard, descriptor in zip((1, 2), output, strict=True):
            os.dup2(descriptor, standard)
        _keep_only({0, 1, 2})
        os.environ.update(request.env)
        # User code finds an empty main module, as in a fresh interpreter.
        sys.modules["__main__"] = ModuleType("__main__")
        sys.argv = ["cloudray.executor"]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from cloudray.executor.serve import serve

        serve(socket_path, request.token, request.progress)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(1)


def _keep_only(wanted: set[int]) -> None:
    """Close all other descriptors: a child that holds a pipe or lock keeps it from ending."""
    lowest = 0
    for descriptor in (*sorted(wanted), os.sysconf("SC_OPEN_MAX")):
        # An empty range is asked for as one that ends before it begins, which closes everything.
        if lowest < descriptor:
            os.closerange(lowest, descriptor)
        lowest = descriptor + 1


def _silence_input() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
