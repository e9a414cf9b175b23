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
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import msgspec

from cloudray.platform import (
    adopt_orphans,
    children,
    die_with_parent,
    end_group,
    message_pair,
    name_process,
)

_MESSAGE_BYTES = 1 << 16
#: Standard output and error of an executor.
_DESCRIPTORS = 2
#: What is left is killed so often, as it may have started others meanwhile.
_GENERATIONS = 100
#: Variables that an interpreter, its modules or the linker read only when they start.
_READ_AT_START = (
    "PYTHON",
    "LD_",
    "DYLD_",
    "MALLOC_",
    "GLIBC_",
    "LC_",
    "LANG",
    "TZ",
    "TMP",
    "TEMP",
)


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


def needs_fresh_interpreter(env: dict[str, str]) -> bool:
    """Whether a fork could not take these environment variables to heart."""
    return any(name.startswith(_READ_AT_START) for name in env)


def command_of(socket_path: str, request: StartRequest) -> list[str]:
    """The command line of an executor that is an interpreter of its own."""
    # -P: files in the working directory must not hide modules that the executor needs.
    module = [sys.executable, "-P", "-m", "cloudray.executor"]
    return [*module, socket_path, request.token, request.progress]


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
    ours, theirs = message_pair()
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
    os.setsid()
    adopt_orphans()
    name_process("cloudray-zygote")
    _keep_only({0, 1, 2, control.fileno(), *output})
    _silence_input()
    # Loaded here and not by the agent before the fork: the two load their halves side by side.
    import cloudray.executor.serve  # noqa: F401

    # What is loaded now stays for ever: keep the collector from touching, and copying, its pages.
    gc.collect()
    gc.freeze()
    executors: set[int] = set()
    try:
        executors.add(_fork_executor(control, socket_path, first, output))
        while True:
            body, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _DESCRIPTORS)
            if not body:
                break
            request: dict[str, Any] = msgspec.msgpack.decode(body)
            _reap(children() - executors)
            if "reap" in request:
                pid = request["reap"]
                _, status = os.waitpid(pid, 0)
                executors.remove(pid)
                status = os.waitstatus_to_exitcode(status)
                control.send(msgspec.msgpack.encode({"pid": pid, "status": status}))
            else:
                # The first executor was wanted too soon to wait for these.
                for module in preload:
                    import_module(module)
                start = msgspec.convert(request, StartRequest)
                out, err = descriptors
                executors.add(_fork_executor(control, socket_path, start, (out, err)))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the agent's end, met while something was said to it
    finally:
        _end(executors)
    os._exit(0)


def _end(executors: set[int]) -> None:
    """The agent has gone: end what it has not ended, and leave no zombie to whoever adopts them.

    Not by a signal that the kernel sends at the agent's death, which would end the executors but
    not what they have started.
    """
    for pid in executors:
        end_group(pid)
    for pid in executors:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
    # Daemons that have left their groups. Their children come here in turn.
    beyond_reach: set[int] = set()
    for _ in range(_GENERATIONS):
        adopted = children() - beyond_reach
        if not adopted:
            return
        for pid in adopted:
            try:
                # Not reaped, so the number is still its own.
                os.kill(pid, signal.SIGKILL)
            except PermissionError:
                beyond_reach.add(pid)
            else:
                os.waitpid(pid, 0)


def _reap(adopted: set[int]) -> None:
    """Leave no zombies of what executors had started when those have ended."""
    for pid in adopted:
        os.waitpid(pid, os.WNOHANG)


def _fork_executor(
    control: socket.socket, socket_path: str, request: StartRequest, output: tuple[int, int]
) -> int:
    zygote = os.getpid()
    pid = os.fork()
    if pid:
        for descriptor in output:
            os.close(descriptor)
        control.send(msgspec.msgpack.encode({"token": request.token, "pid": pid}))
        return pid
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
        if needs_fresh_interpreter(request.env):
            os.execv(sys.executable, command_of(socket_path, request))  # noqa: S606 - no shell
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
