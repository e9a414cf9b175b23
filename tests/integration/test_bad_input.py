"""Every mistake in `docs/errors.md` is made: the error is the one shown, and costs nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cloudray as ray
from cloudray import context, platform
from cloudray.driver.client import DriverClient
from tests.integration.conftest import Shared
from tests.integration.drivers import run_driver
from tests.integration.programs import ROOT
from tests.mistakes import MISTAKES, Mistake, Where

ALL = [row for rows in MISTAKES.values() for row in rows]


def rows_of(where: Where) -> pytest.MarkDecorator:
    """The rows for tests to be parametrised by."""
    chosen = [row for row in ALL if row.where is where]
    return pytest.mark.parametrize("row", chosen, ids=[row.what for row in chosen])


@ray.remote
def same(value: Any) -> Any:
    return value


class Former:
    """References of a cluster that was shut down."""

    def __init__(self) -> None:
        with ray.init(num_cpus=1):
            self.names = {"old_ref": same.remote(1), "old_put": ray.put(2)}
            assert ray.get(list(self.names.values())) == [1, 2]


class Earlier:
    """What a cluster has from before the mistakes, and must have after each of them."""

    def __init__(self) -> None:
        self._refs = [same.remote("made"), ray.put("put"), ray.put(bytes(200_000))]
        self.check()

    def check(self) -> None:
        """All is there, and new work is done."""
        assert ray.get([*self._refs, same.remote("new")]) == ["made", "put", bytes(200_000), "new"]


@pytest.fixture(scope="module")
def former(shared: Shared) -> Former:
    shared.end()
    return Former()


@pytest.fixture(scope="module")
def earlier(shared: Shared, former: Former) -> Earlier:  # noqa: ARG001 - it comes first
    shared.ensure()
    return Earlier()


def stored() -> int:
    """How many objects this driver has asked its store to write."""
    client = context.current()
    assert isinstance(client, DriverClient)
    return client.ledger.as_dict()["put"]


def make(row: Mistake, names: dict[str, Any]) -> BaseException:
    """Make a mistake, and return the error that it leads to."""
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - compared by the caller
        exec(compile(row.code, "program.py", "exec"), names)  # noqa: S102
    return raised.value


def prepare(row: Mistake, **more: Any) -> dict[str, Any]:
    """Run what comes before a mistake; returns the names that it leaves."""
    # Functions of a main program are pickled by value.
    names = {"ray": ray, "__name__": "__main__", **more}
    exec(compile(row.given, "program.py", "exec"), names)  # noqa: S102
    return names


def compare(row: Mistake, error: BaseException) -> None:
    """The error is the one that the page shows."""
    assert type(error).__name__ == row.error
    assert re.fullmatch(row.pattern, str(error), re.DOTALL), str(error)


@rows_of(Where.CLUSTER)
def test_a_mistake_is_answered_and_nothing_is_lost(
    earlier: Earlier, former: Former, row: Mistake
) -> None:
    names = prepare(row, **former.names)
    context.client().identity()
    before = stored()
    error = make(row, names)
    assert row.stores or stored() == before
    compare(row, error)
    earlier.check()


@ray.remote
def shut_down() -> int:
    ray.shutdown()
    answer: int = ray.get(same.remote(1))
    return answer


@ray.remote
def join_again() -> str:
    return str(ray.init(ignore_reinit_error=True)["job_id"])


def test_to_cancel_what_was_put_does_nothing(earlier: Earlier) -> None:
    ref = ray.put("kept")
    before = stored()
    ray.cancel(ref)
    ray.cancel(ref, force=True)
    assert stored() == before
    assert ray.get(ref) == "kept"
    earlier.check()


def test_shutdown_in_a_task_does_nothing(earlier: Earlier) -> None:
    assert ray.get(shut_down.remote()) == 1
    earlier.check()


def test_a_task_may_ask_for_its_own_cluster(earlier: Earlier) -> None:
    assert ray.get(join_again.remote()) == ray.get_runtime_context().get_job_id()
    earlier.check()


def test_a_keyword_of_the_users_may_be_called_self(earlier: Earlier) -> None:
    names: Any = ray.remote(lambda **keywords: sorted(keywords))
    assert ray.get(names.remote(self=1, function=2, args=3)) == ["args", "function", "self"]
    earlier.check()


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder that has no room left."""

    def fill(folder: Path) -> None:
        for name in ("write", "writev"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name), folder))

    return fill


def refusing(write: Callable[..., int], folder: Path) -> Callable[..., int]:
    """A system call that finds the disk full when it writes to a file in `folder`."""

    def refuse(descriptor: int, *args: Any) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, *args)

    return refuse


def content(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder in a folder, and what is in the files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@contextlib.contextmanager
def nothing_written(folder: Path, *, but: tuple[str, ...] = ()) -> Iterator[None]:
    """Neither in a folder nor where embedded clusters are."""
    before = content(folder)
    yield
    after = content(folder)
    assert {
        path: body for path, body in after.items() if not path.endswith(but or ("/",))
    } == before
    ours = f"cloudray-{os.getuid()}-{os.getpid()}-*"
    assert list(platform.memory_folder().glob(ours)) == []


@pytest.mark.usefixtures("no_cluster")
@rows_of(Where.NOWHERE)
def test_a_mistake_before_there_is_a_cluster_starts_none(
    former: Former,
    tmp_path: Path,
    fill: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    row: Mistake,
) -> None:
    names = prepare(row, folder=tmp_path, fill=fill, monkeypatch=monkeypatch, **former.names)
    # Whether a disk is full shows when something is written; the folder for it stays.
    with nothing_written(tmp_path, but=("/.tmp",) if "fill" in row.given else ()):
        error = make(row, names)
    compare(row, error)
    assert not ray.is_initialized()


@pytest.mark.usefixtures("no_cluster")
def test_a_cluster_starts_after_all_that() -> None:
    with ray.init(num_cpus=1):
        assert ray.get(same.remote(1)) == 1


@rows_of(Where.PROGRAM)
def test_a_program_ends_with_the_error(tmp_path: Path, row: Mistake) -> None:
    printed = run_driver(f"{row.given}\n{row.code}\n", tmp_path, fails=True).err
    assert re.search(rf"^(\w+\.)*{row.error}: {row.pattern}$", printed, re.MULTILINE), printed
    assert f"{ROOT}/cloudray" not in printed


def strange(folder: Path) -> str:
    (folder / "thesis.tex").touch()
    return f"file://{folder}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda folder: [strange(folder)], r"cloudray worker: .* holds something else: thesis.tex"),
        (lambda folder: [f"file://{folder}/a/b"], r"cloudray worker: there is no directory .*/a: "),
        (lambda _: ["http://bucket"], r"cloudray worker: 'http://bucket' is no address"),
        (lambda folder: [f"file://{folder}", "--num-cpus=-1"], "--num-cpus -1: The quantity of"),
        (lambda folder: [f"file://{folder}", "--resources=3"], "--resources 3: write it as"),
    ],
    ids=["something else", "nowhere", "http", "quantity", "resources"],
)
@pytest.mark.usefixtures("no_cluster")
def test_a_worker_says_in_one_line_why_it_does_not_start(
    tmp_path: Path, arguments: Callable[[Path], list[str]], said: str
) -> None:
    given = arguments(tmp_path)
    with nothing_written(tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "cloudray", "worker", *given],
            capture_output=True,
            check=False,
            cwd=ROOT,
            text=True,
            timeout=60,
        )
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert re.search(said, line)


def test_no_two_mistakes_have_one_name() -> None:
    names = [row.what for row in ALL]
    assert sorted(set(names)) == sorted(names)
