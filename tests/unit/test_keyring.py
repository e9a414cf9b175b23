from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path

import pytest

from cloudray import keyring
from cloudray.keyring import ClusterKey, find, new_key, read_file, write_file

TEXT = "crk_" + "A" * 43
NO_KEYS = ["", "crk_", "A" * 43, TEXT + "A", "crk_" + "!" * 43, "secret password"]


def test_every_new_key_is_another() -> None:
    assert len({new_key().text for _ in range(20)}) == 20


def test_a_key_is_the_same_wherever_its_text_is_read() -> None:
    key = new_key()
    again = ClusterKey(f"  {key.text}\n")
    assert (again, again.id, again.secret) == (key, key.id, key.secret)
    assert len(key.secret) == 32
    assert key != new_key()


@pytest.mark.parametrize("text", NO_KEYS)
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="what stands in CLOUDRAY_KEY is no key") as refused:
        ClusterKey(text, "CLOUDRAY_KEY")
    assert len(text) < 5 or text not in str(refused.value)


def test_a_key_shows_its_id_and_not_itself() -> None:
    key = new_key("a test")
    for shown in (repr(key), str(key), f"{key}", f"{key!r}", key.id):
        assert key.text not in shown
        assert key.secret.hex() not in shown
    assert key.id in repr(key)


def test_a_key_does_not_travel() -> None:
    with pytest.raises(TypeError, match="is not pickled"):
        pickle.dumps(new_key())


# -- files -------------------------------------------------------------------------------------


def test_a_key_file_is_for_its_user_alone(tmp_path: Path) -> None:
    key = new_key()
    path = write_file(tmp_path / "key", key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_file(path) == key
    assert read_file(path).source == str(path)


def test_a_key_file_is_not_overwritten(tmp_path: Path) -> None:
    key = new_key()
    write_file(tmp_path / "key", key)
    with pytest.raises(ValueError, match="exists, and is not overwritten"):
        write_file(tmp_path / "key", new_key())
    assert read_file(tmp_path / "key") == key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o777])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_file(tmp_path / "key", new_key())
    path.chmod(mode)
    with pytest.raises(ValueError, match=rf"may be read by others .*{mode:o}.*: chmod 600 {path}"):
        read_file(path)


def test_of_a_file_that_is_not_ours_that_is_only_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    path = write_file(tmp_path / "key", key)
    path.chmod(0o444)
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    with pytest.warns(UserWarning, match="belongs to another user and may be read by others"):
        assert read_file(path) == key


def test_a_key_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ValueError, match=f"what stands in {tmp_path / 'key'} is no key"):
        read_file(tmp_path / "key")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_file(tmp_path / "absent")
    with pytest.raises(ValueError, match="is no file"):
        read_file(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ValueError, match="is no file"):
        read_file(tmp_path / "pipe")


def test_the_variable_counts_before_the_file(tmp_path: Path) -> None:
    filed, named, exported = new_key(), new_key(), new_key()
    file = str(write_file(tmp_path / "file", filed))
    variable = {"CLOUDRAY_KEY_FILE": str(write_file(tmp_path / "named", named))}
    assert find({}) is None
    assert find({}, file, "[clusters.x]") == filed
    assert find(variable, file) == named
    assert find(variable | {"CLOUDRAY_KEY": exported.text}, file) == exported


# -- other processes ---------------------------------------------------------------------------


def test_a_key_goes_through_a_pipe_once() -> None:
    key = new_key("a file")
    descriptor = keyring.pipe_of(key)
    got = keyring.read_pipe(descriptor)
    assert (got, got.source) == (key, "a file")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(descriptor, 1)


def test_what_others_inherit_has_no_key() -> None:
    environment = {"CLOUDRAY_KEY": TEXT, "CLOUDRAY_KEY_FILE": "/key", "PATH": "/bin"}
    assert keyring.without(environment) == {"PATH": "/bin"}
