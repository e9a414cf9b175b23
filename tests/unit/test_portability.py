"""What only Linux has is named in `platform.py` and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cloudray"
#: The module that may.
EXEMPT = {"platform.py"}

#: Functions and constants that macOS lacks, in whatever module of Python's they are.
NAMES = {
    "AF_NETLINK",
    "AF_VSOCK",
    "CLOCK_BOOTTIME",
    "CLOCK_TAI",
    "EPOLLIN",
    "MSG_CMSG_CLOEXEC",
    "MSG_NOSIGNAL",
    # Python sets it by itself, and Windows has none.
    "O_CLOEXEC",
    "O_DIRECT",
    "O_NOATIME",
    "O_PATH",
    "O_TMPFILE",
    "P_PIDFD",
    "RWF_APPEND",
    "SOCK_CLOEXEC",
    "SOCK_NONBLOCK",
    "SOCK_SEQPACKET",
    "SO_PASSCRED",
    "SO_PEERCRED",
    "TCP_USER_TIMEOUT",
    "copy_file_range",
    "epoll",
    "eventfd",
    "fdatasync",
    "getresuid",
    "inotify_init",
    "memfd_create",
    "pidfd_open",
    "pidfd_send_signal",
    "pipe2",
    "posix_fadvise",
    "posix_fallocate",
    "prctl",
    "prlimit",
    "sched_getaffinity",
    "sched_setaffinity",
    "setns",
    "setxattr",
    "sigtimedwait",
    "sigwaitinfo",
    "splice",
    "unshare",
    "waitid",
}
#: What a module asks the system about itself by: `platform` answers such questions.
QUESTIONS = {("sys", "platform"), ("os", "uname"), ("os", "fork"), ("os", "register_at_fork")}
#: Modules of which nothing is portable enough.
MODULES = {"ctypes", "fcntl", "grp", "pwd", "resource"}
#: Beginnings of paths that only Linux has.
PATHS = ("/proc", "/dev/shm", "/sys", "/run")
#: What a module may all the same.
ALLOWED = {
    # `platform` has said that this system forks cleanly.
    "executor/zygote.py": {"os.fork"},
    # The same call on every Unix, and another one on Windows.
    "values/mapping.py": {"import ctypes", "sys.platform"},
}


def violations(package: Path) -> list[str]:
    """One line for each use of something that not every Unix has."""
    found = []
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package).as_posix()
        if where in EXEMPT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        allowed = ALLOWED.get(where, set())
        found += [f"{where}:{line} {what}" for line, what in uses(tree) if what not in allowed]
    return found


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What in a module is not portable, with its line."""
    docstrings = set(_docstrings(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in QUESTIONS:
                yield node.lineno, f"{module}.{name}"
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in NAMES:
                yield node.lineno, name
            case ast.Import() | ast.ImportFrom():
                yield from _imports(node)
            case ast.Constant(value=str(text)) if node not in docstrings and _is_told(text):
                yield node.lineno, repr(text)


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[int, str]]:
    module = node.module if isinstance(node, ast.ImportFrom) else None
    for alias in node.names:
        name = alias.name
        if module is None:
            if name in MODULES:
                yield node.lineno, f"import {name}"
        elif module in MODULES or name in NAMES or (module, name) in QUESTIONS:
            yield node.lineno, f"from {module} import {name}"


def _is_told(text: str) -> bool:
    """Whether a text names something that only Linux has."""
    return text in NAMES or any(text == path or text.startswith(f"{path}/") for path in PATHS)


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def test_only_platform_knows_what_only_linux_has() -> None:
    assert violations(PACKAGE) == []


def test_platform_itself_uses_such_things() -> None:
    found = {what for _, what in uses(ast.parse((PACKAGE / "platform.py").read_text()))}
    assert {"SOCK_SEQPACKET", "pidfd_open", "'/dev/shm'", "import fcntl"} <= found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os\nos.memfd_create('x')", "2 memfd_create"),
        ("from os import memfd_create", "1 from os import memfd_create"),
        ("import socket as s\ns.socketpair(1, s.SOCK_SEQPACKET)", "2 SOCK_SEQPACKET"),
        ("open('/proc/self/stat')", "1 '/proc/self/stat'"),
        ("from pathlib import Path\nPath('/dev/shm').is_dir()", "2 '/dev/shm'"),
        ("open(f'/proc/{1}/stat')", "1 '/proc/'"),
        ("import sys\nif sys.platform == 'linux': pass", "2 sys.platform"),
        ("from sys import platform", "1 from sys import platform"),
        ("import os\nos.fork()", "2 os.fork"),
        ("def lock():\n    import fcntl", "2 import fcntl"),
        ("from ctypes import CDLL", "1 from ctypes import CDLL"),
        ("import time\ngetattr(time, 'CLOCK_BOOTTIME')", "2 'CLOCK_BOOTTIME'"),
    ],
)
def test_what_only_linux_has_is_found(tmp_path: Path, source: str, found: str) -> None:
    (tmp_path / "planted.py").write_text(source)
    assert violations(tmp_path) == [f"planted.py:{found}"]


@pytest.mark.parametrize(
    "source",
    [
        '"""Reads nothing under /proc, nor memfd_create."""',
        "import os\nos.kill(1, 9)",
        "open('/process')",
        "import platform\nplatform.python_version()",
    ],
)
def test_anything_else_is_fine(tmp_path: Path, source: str) -> None:
    (tmp_path / "planted.py").write_text(source)
    assert violations(tmp_path) == []
