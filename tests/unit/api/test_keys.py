"""Where the key of a cluster comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudray import configuration
from cloudray.api.overview import settings
from cloudray.api.sources import Resolved, resolve
from cloudray.keyring import ClusterKey, new_key, write_file

ADDRESS = "s3://bucket/prefix"
ONE, TWO, THREE, FOUR = (new_key() for _ in range(4))
NOTHING = {"CLOUDRAY_CONFIG": "/dev/null"}


def key_of(resolved: Resolved) -> tuple[ClusterKey | None, str]:
    return resolved.configuration.key, resolved.sources["key"]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The file of settings, with a cluster that has a key."""
    write_file(tmp_path / "filed.key", ONE)
    write_file(tmp_path / "top.key", TWO)
    path = tmp_path / "cloudray.toml"
    path.write_text(
        f'key_file = "{tmp_path}/top.key"\n'
        f'[clusters.prod]\naddress = "{ADDRESS}"\nkey_file = "{tmp_path}/filed.key"\n'
        '[clusters.open]\naddress = "s3://open"\n'
    )
    return str(path)


def test_by_default_there_is_none() -> None:
    assert key_of(resolve({"address": ADDRESS}, NOTHING)) == (None, "default")


def test_an_argument_counts_before_the_environment_and_that_before_the_file(
    file: str, tmp_path: Path
) -> None:
    environ = {"CLOUDRAY_CONFIG": file}
    found = key_of(resolve({"address": "prod"}, environ))
    assert found == (ONE, f"file [clusters.prod] of {file}")
    environ |= {"CLOUDRAY_KEY_FILE": str(write_file(tmp_path / "three", THREE))}
    assert key_of(resolve({"address": "prod"}, environ)) == (THREE, "environment CLOUDRAY_KEY_FILE")
    environ |= {"CLOUDRAY_KEY": TWO.text}
    assert key_of(resolve({"address": "prod"}, environ)) == (TWO, "environment CLOUDRAY_KEY")
    four = str(write_file(tmp_path / "four", FOUR))
    arguments = {"address": "prod", "key_file": four}
    assert key_of(resolve(arguments, environ)) == (FOUR, "argument key_file")
    arguments |= {"key": ONE.text}
    assert key_of(resolve(arguments, environ)) == (ONE, "argument key")


def test_a_named_cluster_has_its_key_also_by_its_url(file: str) -> None:
    environ = {"CLOUDRAY_CONFIG": file}
    assert resolve({"address": ADDRESS}, environ).configuration.key == ONE
    assert resolve({"address": "open"}, environ).configuration.key == TWO
    assert resolve({"address": "s3://other"}, environ).configuration.key == TWO


def test_a_cluster_on_this_machine_makes_its_own() -> None:
    exported = NOTHING | {"CLOUDRAY_KEY": ONE.text}
    assert resolve({}, exported).configuration.key is None
    for arguments in ({"key": ONE.text}, {"key_file": "/key"}):
        with pytest.raises(ValueError, match="is for clusters that have an address"):
            resolve(arguments, NOTHING)


def test_a_key_file_that_is_none_is_an_error_that_says_who_named_it(tmp_path: Path) -> None:
    arguments = {"address": ADDRESS, "key_file": str(tmp_path / "absent")}
    with pytest.raises(ValueError, match=r"absent \(argument key_file\) cannot be read"):
        resolve(arguments, NOTHING)


@pytest.mark.parametrize("text", ["nonsense", "crk_" + "A" * 44, "crk_" + "!" * 43])
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"CLOUDRAY_KEY=… is not allowed: .* is no key") as refused:
        resolve({"address": ADDRESS}, NOTHING | {"CLOUDRAY_KEY": text})
    assert text not in str(refused.value)
    with pytest.raises(ValueError, match="is no key") as refused:
        resolve({"address": ADDRESS, "key": text}, NOTHING)
    assert text not in str(refused.value)


@pytest.mark.parametrize("line", ['key = "crk_secret"', "key = 12345678"])
def test_the_file_of_settings_holds_no_key(tmp_path: Path, line: str) -> None:
    path = tmp_path / "cloudray.toml"
    path.write_text(line)
    with pytest.raises(ValueError, match=r"key does not belong here, .* key_file") as refused:
        resolve({"address": ADDRESS}, {"CLOUDRAY_CONFIG": str(path)})
    assert line.rsplit(maxsplit=1)[-1].strip('"') not in str(refused.value)


@pytest.mark.parametrize("entry", ["12", '""', "[]"])
def test_the_key_file_of_a_named_cluster_is_a_path(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "cloudray.toml"
    path.write_text(f'[clusters.x]\naddress = "s3://b"\nkey_file = {entry}\n')
    with pytest.raises(ValueError, match=r"\[clusters.x\]: key_file must be the path of a file"):
        resolve({"address": "x"}, {"CLOUDRAY_CONFIG": str(path)})


def test_the_key_is_shown_by_its_id_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDRAY_KEY", ONE.text)
    monkeypatch.setenv("CLOUDRAY_ADDRESS", ADDRESS)
    before = settings()
    resolved = resolve({}, {**NOTHING, "CLOUDRAY_KEY": ONE.text, "CLOUDRAY_ADDRESS": ADDRESS})
    configuration.use(resolved.configuration, resolved.sources)
    try:
        held = settings()
    finally:
        configuration.use(None)
    for found in (before, held):
        shown: Any = (
            repr(found),
            found._repr_html_(),
            msgspec.json.encode(dict(found)).decode(),
            repr(resolved),
        )
        assert found["key"] == f"id {ONE.id}"
        assert not any(ONE.text in each or ONE.secret.hex() in each for each in shown)
