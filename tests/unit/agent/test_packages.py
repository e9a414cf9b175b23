"""Code is made ready for executors, and a failure says what is wrong with which package."""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudray import ids
from cloudray.agent.packages import Furnished, Packages
from cloudray.code.archives import Item, pack
from cloudray.exceptions import RuntimeEnvSetupError
from cloudray.protocol.records import Code, Job, Package, Seen
from cloudray.store import Counting, Kind, Ledger, MemoryStore, Reliable, layout, seal
from cloudray.store.base import Head, Op, StoreError, TransientStoreError
from cloudray.store.wrapper import Wrapper

HOST = "here"
DAYS = 7
PREFIX = ids.batch_prefix(DAYS, b"j" * ids.ID_BYTES, bytes(ids.ID_BYTES))


class Machine:
    """A machine, and a bucket with packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()
        self.cache = folder / "cache"
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.cwd = folder / "cwd"
        self.cwd.mkdir()
        self.packages = self.agent()
        self.job = Job(b"j" * ids.ID_BYTES, "3.11", HOST, 1, 0.0, (), str(self.cwd))

    def agent(self) -> Packages:
        return Packages(self.store, self.cache, 1_000_000, lambda: self.scratch, HOST)

    def package(self, text: str = "A = 1", *, stored: bool = True) -> Package:
        archive = pack([Item("a.py", text.encode())])
        if stored:
            self.store.put(layout.blob(PREFIX, archive.digest), seal(Kind.BLOB, archive.body))
        return Package(archive.digest, f"the package with {text}", len(archive.body))

    async def furnish(self, code: Code, job: Job | None = None) -> Furnished:
        return await self.packages.furnish(code, job or self.job, DAYS)


def in_real_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a loop that waits for threads, which write files."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


def content_of(folder: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(folder).iterdir()}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.packages.close()


@in_real_time
async def test_modules_are_found_in_the_order_asked_for(machine: Machine) -> None:
    first, second, third = (machine.package(text) for text in "abc")
    furnished = await machine.furnish(Code(None, (second, first), (third,)))
    assert furnished.path == tuple(
        str(machine.cache / package.digest) for package in (second, first, third)
    )
    assert furnished.working_dir == ""


@in_real_time
async def test_each_executor_has_a_working_directory_of_its_own(machine: Machine) -> None:
    code = Code(machine.package())
    one, two = [await machine.furnish(code) for _ in range(2)]
    assert one.working_dir != two.working_dir
    assert one.path == (one.working_dir,)
    for name in ("a.py", "new"):
        (Path(one.working_dir) / name).write_text("mine")
    assert content_of(two.working_dir) == {"a.py": "A = 1"}
    three = await machine.furnish(code)
    assert content_of(three.working_dir) == {"a.py": "A = 1"}


@in_real_time
async def test_what_was_an_executors_own_goes_with_it(machine: Machine) -> None:
    furnished = await machine.furnish(Code(machine.package()))
    await machine.packages.discard(furnished)
    assert list(machine.scratch.iterdir()) == []


@in_real_time
async def test_what_the_machine_sees_anyway_is_not_fetched(machine: Machine) -> None:
    status = machine.cwd.stat()
    seen = Seen(str(machine.cwd), status.st_dev, status.st_ino)
    package = msgspec.structs.replace(machine.package(stored=False), seen=seen)
    assert (await machine.furnish(Code(None, (), (package,)))).path == ()


@pytest.mark.parametrize("other", ["host", "path", "inode", "device"])
@in_real_time
async def test_a_folder_that_only_looks_the_same_is_another(machine: Machine, other: str) -> None:
    status = machine.cwd.stat()
    seen = Seen(
        str(machine.cwd / "x") if other == "path" else str(machine.cwd),
        status.st_dev + (other == "device"),
        status.st_ino + (other == "inode"),
    )
    package = msgspec.structs.replace(machine.package(), seen=seen)
    job = msgspec.structs.replace(machine.job, host="there" if other == "host" else HOST)
    furnished = await machine.furnish(Code(None, (), (package,)), job)
    assert furnished.path == (str(machine.cache / package.digest),)


@in_real_time
async def test_where_the_drivers_folder_is_not_tasks_have_an_empty_one(machine: Machine) -> None:
    job = msgspec.structs.replace(machine.job, cwd="/not/here")
    one, two = [await machine.furnish(Code(), job) for _ in range(2)]
    assert content_of(one.working_dir) == {}
    assert one.working_dir != two.working_dir
    assert one.path == ()


@in_real_time
async def test_a_package_that_is_gone_is_named(machine: Machine) -> None:
    package = machine.package(stored=False)
    with pytest.raises(RuntimeEnvSetupError) as info:
        await machine.furnish(Code(package))
    told = str(info.value)
    assert "the package with A = 1 could not be made ready on here: it is not in the store" in told
    assert package.digest in told


@in_real_time
async def test_a_package_of_another_content_is_refused(machine: Machine) -> None:
    package = machine.package()
    other = pack([Item("a.py", b"evil")]).body
    machine.store.put(layout.blob(PREFIX, package.digest), seal(Kind.BLOB, other))
    with pytest.raises(RuntimeEnvSetupError, match="its content is not that of"):
        await machine.furnish(Code(package))


@in_real_time
async def test_what_is_larger_than_was_stored_is_not_even_read(machine: Machine) -> None:
    package = machine.package()
    ledger = Ledger()
    machine.store.put(layout.blob(PREFIX, package.digest), seal(Kind.BLOB, bytes(10_000)))
    packages = Packages(
        Counting(machine.store, ledger), machine.cache, 1_000_000, lambda: machine.scratch, HOST
    )
    with pytest.raises(RuntimeEnvSetupError, match="has 10064 bytes, and"):
        await packages.furnish(Code(package), machine.job, DAYS)
    assert ledger == Ledger(get=1)


@in_real_time
async def test_a_digest_that_is_a_path_leads_nowhere(machine: Machine) -> None:
    package = Package("../../evil", "a trick", 1)
    with pytest.raises(RuntimeEnvSetupError, match=r"'\.\./\.\./evil' is not the name of an"):
        await machine.furnish(Code(package))
    assert list(machine.cache.iterdir()) == []


@in_real_time
async def test_a_record_that_is_none_is_refused(machine: Machine) -> None:
    package = machine.package()
    machine.store.put(layout.blob(PREFIX, package.digest), seal(Kind.OBJECT, b"value"))
    with pytest.raises(RuntimeEnvSetupError, match="holds a record of kind"):
        await machine.furnish(Code(package))


@in_real_time
async def test_a_store_that_refuses_is_quoted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(op: Op) -> object:
        assert isinstance(op, Head)
        raise StoreError("access denied")

    monkeypatch.setattr(machine.store, "perform", refuse)
    with pytest.raises(RuntimeEnvSetupError, match="access denied"):
        await machine.furnish(Code(machine.package(stored=False)))


@in_real_time
async def test_what_may_pass_is_waited_for(machine: Machine) -> None:
    failures = iter([TransientStoreError("503"), TransientStoreError("reset")])
    package = machine.package()

    class Away(Wrapper):
        def perform(self, op: Op) -> object:
            raise NotImplementedError

        async def perform_async(self, op: Op) -> object:
            for failure in failures:
                raise failure
            return await self._store.perform_async(op)

    async def no_time(_: float) -> None:
        await asyncio.sleep(0)

    store = Reliable(Away(machine.store), sleep_async=no_time)
    packages = Packages(store, machine.cache, 1_000_000, lambda: machine.scratch, HOST)
    furnished = await packages.furnish(Code(None, (package,)), machine.job, DAYS)
    assert furnished.path == (str(machine.cache / package.digest),)
    assert next(failures, None) is None
    packages.close()


@in_real_time
async def test_what_fails_half_way_lets_go_of_the_rest(machine: Machine) -> None:
    good = machine.package("good")
    with pytest.raises(RuntimeEnvSetupError):
        await machine.furnish(Code(good, (machine.package(stored=False),)))
    assert list(machine.scratch.iterdir()) == []
    # Nobody has it, so it may go.
    other = machine.agent()
    other._limit_bytes = 1
    await machine.furnish(Code(None, (good,)))
    machine.packages.close()


@in_real_time
async def test_no_room_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(RuntimeEnvSetupError, match=r"could not be copied: .*No space left"):
        await machine.furnish(Code(machine.package()))


@in_real_time
async def test_a_cache_that_cannot_be_is_told(machine: Machine) -> None:
    machine.cache.write_text("a file")
    with pytest.raises(RuntimeEnvSetupError, match="there is no place for it in"):
        await machine.furnish(Code(machine.package()))
