from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudray.keyring import ClusterKey
from tests.unit.cli.conftest import Ended

Cloudray = Callable[..., Ended]


def test_a_new_key_goes_alone_to_standard_output(cloudray: Cloudray) -> None:
    ended = cloudray("key", "new")
    (line,) = ended.output.splitlines()
    assert ClusterKey(line).id in ended.errors
    assert line not in ended.errors


def test_whoever_makes_a_key_is_told_where_to_put_it(cloudray: Cloudray) -> None:
    said = cloudray("key", "new").errors
    assert "in the variable CLOUDRAY_KEY, or in a file that CLOUDRAY_KEY_FILE names" in said
    assert "chmod 600" in said


def test_a_key_in_a_file_is_followed_by_what_to_type(cloudray: Cloudray, tmp_path: Path) -> None:
    file = tmp_path / "my key"
    ended = cloudray("key", "new", "--out", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f"    export CLOUDRAY_KEY_FILE='{file}'\n" in ended.output
    assert file.read_text().strip() not in ended.output + ended.errors
    assert cloudray("key", "id", str(file)).output.strip() in ended.output


def test_who_has_no_key_is_told_how_to_make_one(
    cloudray: Cloudray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLOUDRAY_KEY", "CLOUDRAY_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    ended = cloudray("key", "id")
    assert ended.code == 2
    assert ended.errors.startswith("cloudray key id: no key was found: it is looked for in the ")
    assert "`cloudray key new` makes one." in ended.errors
