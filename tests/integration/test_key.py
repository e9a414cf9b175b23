"""A cluster with a key is for those who have it, and nobody else learns it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import cloudray as ray
from cloudray import configuration
from cloudray.cli.app import run
from cloudray.exceptions import ObjectLostError
from cloudray.keyring import new_key, read_file, write_file
from cloudray.protocol.records import Cluster, unseal
from cloudray.store import layout, open_store
from cloudray.store.signing import PUBLIC, Signer
from tests import buckets
from tests.integration.clusters import Embedded
from tests.integration.drivers import run_driver
from tests.integration.keyed import Keyed
from tests.integration.programs import ROOT
from tests.servers import Server

Own = Callable[..., Embedded]
OTHER = new_key("another")


@pytest.fixture(scope="module")
def keyed() -> Iterator[Keyed]:
    """A cluster with a key, and an agent that has it."""
    cluster = Keyed()
    try:
        cluster.start("--num-cpus", "1")
        yield cluster
    finally:
        ray.shutdown()
        cluster.close()


@pytest.fixture
def joined(keyed: Keyed, no_cluster: None) -> Iterator[Keyed]:  # noqa: ARG001 - it comes first
    ray.init(keyed.address, key=keyed.key.text)
    yield keyed
    ray.shutdown()


@pytest.fixture
def own_settings() -> Iterator[None]:
    """A command that runs here lets its settings hold: not longer than the test."""
    settings = configuration.current(), configuration.sources()
    yield
    configuration.use(*settings)


@ray.remote
def surroundings() -> tuple[dict[str, str], str]:
    """What an executor, and whatever it starts, can read of its environment."""
    found = Path("/proc/self/environ")
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(dict(os.environ))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(os.environ), f"{child}{found.read_text() if found.exists() else ''}"


@ray.remote
def double(values: Any) -> Any:
    return values * 2


def family_of(pid: int) -> list[psutil.Process]:
    agent = psutil.Process(pid)
    return [agent, *agent.children(recursive=True)]


# -- with it ---------------------------------------------------------------------------------------


def test_what_a_program_submits_as_it_ends_is_signed_and_stored(
    keyed: Keyed,
    no_cluster: None,  # noqa: ARG001 - none before
    tmp_path: Path,
) -> None:
    # What is so large is signed on a thread of its own, while there may be one.
    run_driver(
        f"""
        import atexit
        from pathlib import Path
        import cloudray

        content = bytes(2_000_000)

        @cloudray.remote
        def write(path):
            Path(path).write_bytes(content)

        cloudray.init({keyed.address!r})
        atexit.register(lambda: write.remote({str(tmp_path / "written")!r}) and None)
        """,
        tmp_path,
        env={"CLOUDRAY_KEY": keyed.key.text},
    )
    keyed.wait((tmp_path / "written").exists)


@pytest.mark.usefixtures("joined")
def test_those_who_have_the_key_work_as_ever() -> None:
    values = np.arange(200_000)
    assert ray.get(double.remote(21), timeout=60) == 42
    assert (ray.get(double.remote(values), timeout=60) == values * 2).all()
    assert (ray.get(double.remote(ray.put(values)), timeout=60) == values * 2).all()


def test_executors_do_not_learn_the_key(joined: Keyed) -> None:
    variables, shown = ray.get(surroundings.remote(), timeout=60)
    assert not [name for name in variables if name.startswith("CLOUDRAY_KEY")]
    assert joined.key.text not in f"{variables}{shown}"


def test_no_process_shows_the_key(joined: Keyed) -> None:
    assert joined.agent is not None
    ray.get(double.remote(1), timeout=60)
    for process in family_of(joined.agent.pid):
        said = " ".join(process.cmdline()) + str(process.environ())
        assert joined.key.text not in said
        assert joined.key.secret.hex() not in said


def test_the_key_lies_nowhere_in_the_store(joined: Keyed) -> None:
    ray.get(double.remote(1), timeout=60)
    assert holds(joined.folder, joined.key.text.encode(), joined.key.secret) == []


def holds(folder: Path, *secrets: bytes) -> list[Path]:
    """The files that have one of these bytes."""
    found = []
    for path in folder.rglob("*"):
        # What is there comes and goes.
        with contextlib.suppress(FileNotFoundError):
            body = path.read_bytes() if path.is_file() else b""
            if any(secret in body for secret in secrets):
                found.append(path)
    return found


def test_the_settings_show_its_id(joined: Keyed) -> None:
    assert ray.settings()["key"] == f"id {joined.key.id}"
    assert joined.key.text not in repr(ray.settings())


def test_all_that_is_stored_is_signed(joined: Keyed) -> None:
    ray.get(double.remote(np.arange(200_000)), timeout=60)
    keys = joined.listed()
    assert {key.partition("/")[0] for key in keys} >= {"cluster", "agents", "t7"}
    unsigned = [key for key in keys if (joined.raw.get(key) or bytes(56))[24:56] == bytes(32)]
    # What shows that a store keeps its promises is read by nobody else.
    assert [key for key in unsigned if not key.startswith("probe/")] == []


# -- without it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has a key (its id is {key.id}), and none was found here"),
        (OTHER.text, "has the key {key.id}, and the one found here is {other.id}"),
    ],
    ids=["none", "another"],
)
def test_an_agent_without_the_key_refuses_to_go_on(keyed: Keyed, text: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloudray", "worker", keyed.address],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CLOUDRAY_KEY": text},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert words.format(key=keyed.key, other=OTHER) in done.stderr
    assert "CLOUDRAY_KEY_FILE" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not text or text not in done.stderr


def test_an_agent_with_what_is_no_key_refuses_to_start(keyed: Keyed) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloudray", "worker", keyed.address],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CLOUDRAY_KEY": "my secret"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "The environment variable CLOUDRAY_KEY=… is not allowed" in done.stderr
    assert "my secret" not in done.stderr


@pytest.mark.usefixtures("no_cluster")
def test_a_driver_without_the_key_is_refused_and_writes_nothing(keyed: Keyed) -> None:
    before = [key for key in keyed.listed() if key.startswith("t")]
    with pytest.raises(ConnectionError, match=rf"has a key \(its id is {keyed.key.id}\)"):
        ray.init(keyed.address)
    with pytest.raises(ConnectionError, match=f"has the key {keyed.key.id}, .* is {OTHER.id}"):
        ray.init(keyed.address, key=OTHER.text)
    assert [key for key in keyed.listed() if key.startswith("t")] == before
    assert not ray.is_initialized()


@pytest.mark.usefixtures("own_settings")
def test_every_command_wants_the_key_too(
    keyed: Keyed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (["status"], ["jobs", "list"]):
        assert run([*command, keyed.address]) != 0
        assert f"has a key (its id is {keyed.key.id})" in capsys.readouterr().err
    monkeypatch.setenv("CLOUDRAY_KEY", keyed.key.text)
    for command in (["status"], ["jobs", "list"]):
        assert run([*command, keyed.address]) == 0
        assert keyed.key.text not in capsys.readouterr().out


# -- new clusters ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_cluster")
def test_a_new_cluster_gets_the_key_that_is_there(tmp_path: Path) -> None:
    file = write_file(tmp_path / "key", new_key())
    address = (tmp_path / "cluster").as_uri()
    ray.init(address, key_file=file)
    ray.shutdown()
    with pytest.raises(ConnectionError, match="has a key"):
        ray.init(address)
    ray.init(address, key_file=file)
    ray.shutdown()


@pytest.mark.usefixtures("no_cluster")
def test_a_cluster_without_a_key_stays_one(tmp_path: Path) -> None:
    address = (tmp_path / "cluster").as_uri()
    ray.init(address)
    ray.shutdown()
    body = open_store(address).get(layout.CLUSTER)
    assert body is not None
    assert unseal(Cluster, body, layout.CLUSTER).key_id == ""
    assert Signer(PUBLIC).is_valid(layout.CLUSTER, body)
    with pytest.raises(ConnectionError, match="has no key, and one was found here"):
        ray.init(address, key=OTHER.text)


def test_a_driver_reads_its_key_from_the_file_of_settings(keyed: Keyed, tmp_path: Path) -> None:
    write_file(tmp_path / "key", keyed.key)
    (tmp_path / "cloudray.toml").write_text(
        f'[clusters.ours]\naddress = "{keyed.address}"\nkey_file = "{tmp_path}/key"\n'
    )
    source = """
        import cloudray as ray

        ray.init("ours")

        @ray.remote
        def answer():
            return 42

        print(ray.get(answer.remote()), ray.settings().source("key"))
    """
    ended = run_driver(source, tmp_path, env={"CLOUDRAY_CONFIG": str(tmp_path / "cloudray.toml")})
    assert ended.lines()[-1].startswith("42 file [clusters.ours] of ")


# -- in a bucket -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_cluster")
def test_a_cluster_in_a_bucket_keeps_its_key_too(localstack: Server, tmp_path: Path) -> None:
    key = new_key()
    address = localstack.address("keyed")
    with buckets.credentials():
        agent = subprocess.Popen(
            [sys.executable, "-m", "cloudray", "worker", address, "--num-cpus", "1"],
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path)}
            | {"CLOUDRAY_KEY": key.text},
        )
        try:
            ray.init(address, key=key.text)
            variables, shown = ray.get(surroundings.remote(), timeout=60)
            assert key.text not in f"{variables}{shown}"
            # Of several parts, both ways.
            values = np.arange(1_500_000)
            ref = ray.put(values)
            assert (ray.get(double.remote(ref), timeout=60) == values * 2).all()
            raw = open_store(address)
            body = bytearray(raw.get(layout.put_object(ref.id)) or b"")
            body[9_000_000] ^= 1
            raw.put(layout.put_object(ref.id), bytes(body))
            with pytest.raises(ObjectLostError, match="has a signature that is not that of"):
                ray.get(ref, timeout=60)
            ray.shutdown()
            with pytest.raises(ConnectionError, match=rf"has a key \(its id is {key.id}\)"):
                ray.init(address)
        finally:
            ray.shutdown()
            agent.terminate()
            assert agent.wait(60) == 0


# -- clusters that end with their driver -----------------------------------------------------------


def test_an_embedded_cluster_makes_a_key_that_nobody_learns(
    own_cluster: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDRAY_KEY", OTHER.text)
    embedded = own_cluster(num_cpus=1)
    session = sys.modules["cloudray.api.session"].joined()
    assert session is not None
    key = session.cluster.key
    assert session.client.settings.key_id == key.id != OTHER.id
    variables, shown = ray.get(surroundings.remote())
    ray.get(double.remote(np.arange(200_000)))
    for secret in (key.text, OTHER.text):
        assert secret not in f"{variables}{shown}"
        assert holds(embedded.folder, secret.encode()) == []
        for process in embedded.processes():
            assert secret not in " ".join(process.cmdline()) + str(process.environ())
    assert holds(embedded.folder, key.secret) == []


def test_a_record_that_is_put_into_its_folder_is_refused(own_cluster: Own) -> None:
    own_cluster(num_cpus=1)
    session = sys.modules["cloudray.api.session"].joined()
    assert session is not None
    raw = open_store(session.address)
    raw.put(layout.agent("forged"), b"forged")
    assert len(ray.nodes()) == 1


def test_an_agent_that_is_started_again_has_the_key(own_cluster: Own) -> None:
    embedded = own_cluster(num_cpus=1)
    assert ray.get(double.remote(1)) == 2
    psutil.Process(embedded.agent).kill()
    assert ray.get(double.remote(2)) == 4


# -- commands --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_settings")
def test_a_new_key_is_printed_or_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["key", "new"]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "key"
    assert run(["key", "new", "--out", str(file)]) == 0
    said = capsys.readouterr().out
    key = read_file(file)
    assert key.id in said
    assert key.text not in said
    assert run(["key", "new", "--out", str(file)]) != 0
    assert "is not overwritten" in capsys.readouterr().err
    assert run(["key", "id", str(file)]) == 0
    assert capsys.readouterr().out.split() == [key.id]
    monkeypatch.setenv("CLOUDRAY_KEY", printed.strip())
    assert run(["key", "id"]) == 0
    assert capsys.readouterr().out.strip() not in {key.id, ""}
    monkeypatch.delenv("CLOUDRAY_KEY")
    assert run(["key", "id"]) != 0
    assert "no key was found: it is looked for in" in capsys.readouterr().err
