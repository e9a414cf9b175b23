"""The user's file of settings: where it is, and every way in which it may be wrong."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudray.api.userfile import UserFile, path_of, read

Read = Callable[[str], UserFile]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cloudray.toml"


@pytest.fixture
def read_text(path: Path) -> Read:
    def read_text(text: str) -> UserFile:
        path.write_text(text, encoding="utf-8")
        return read({"CLOUDRAY_CONFIG": str(path)})

    return read_text


def test_a_variable_names_the_file() -> None:
    environ = {"CLOUDRAY_CONFIG": "/mine.toml", "XDG_CONFIG_HOME": "/settings"}
    assert path_of(environ) == Path("/mine.toml")


def test_it_lies_where_settings_lie() -> None:
    assert path_of({"XDG_CONFIG_HOME": "/settings"}) == Path("/settings/cloudray.toml")


@pytest.mark.parametrize("base", ["", "settings"])
def test_it_lies_in_the_home_folder_where_that_place_is_not_absolute(base: str) -> None:
    assert path_of({"XDG_CONFIG_HOME": base}) == Path.home() / ".config" / "cloudray.toml"


def test_without_a_home_folder_there_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    assert read({}) == UserFile(None)


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cloudray.toml"
    assert read({"XDG_CONFIG_HOME": str(tmp_path)}) == UserFile(path)


def test_a_place_that_is_no_folder_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read({"XDG_CONFIG_HOME": str(tmp_path / "file")}).values == {}


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(FileNotFoundError, match=re.escape(f"CLOUDRAY_CONFIG={path} names a file")):
        read({"CLOUDRAY_CONFIG": str(path)})


@pytest.mark.parametrize("is_reachable", [False, True])
def test_a_file_that_may_not_be_read_is_an_error_unless_it_is_in_anothers_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_reachable: bool
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    # Played, since nobody refuses anything to root.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(os, "access", lambda *_: is_reachable)
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    if is_reachable:
        with pytest.raises(PermissionError, match=str(tmp_path)):
            read(environ)
    else:
        assert read(environ).values == {}


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_says_nothing(read_text: Read, text: str) -> None:
    assert read_text(text).values == {}


def test_the_null_device_is_an_empty_file() -> None:
    assert read({"CLOUDRAY_CONFIG": os.devnull}).values == {}


def test_its_values_are_checked_and_kept(read_text: Read) -> None:
    file = read_text("""
        namespace = "evening"
        progress = false
        logging_level = "warning"
        [embedded]
        num_cpus = 4
        memory = "2 GB"
        object_store_memory = 1_000_000
        resources = { licence = 2 }
        [runtime_env.env_vars]
        LEVEL = "3"
        [timing]
        commit_s = 0.2
        [clusters."the evening's"]
        address = "s3://bucket/prefix"
    """)
    assert file.values == {
        "namespace": "evening",
        "progress": False,
        "logging_level": 30,
        "num_cpus": 4.0,
        "memory": 2_000_000_000,
        "object_store_memory": 1_000_000,
        "resources": {"licence": 2.0},
        "env_vars": {"LEVEL": "3"},
        "commit_s": 0.2,
    }
    assert file.clusters == {"the evening's": "s3://bucket/prefix"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("namespace = \nprogress = true", r"line 1, column 13"),
        ("progress = false\nprogress = true\n", r"line 2, column 16"),
        ("progress = true\n[embedded", "at the end, line 2"),
    ],
)
def test_a_broken_file_is_told_with_line_and_column(
    read_text: Read, path: Path, text: str, place: str
) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is not valid TOML: .*{place}"):
        read_text(text)


def test_a_file_that_is_no_text_is_told_with_its_line(path: Path) -> None:
    path.write_bytes(b"# colours\nnamespace = '\xff'\n")
    with pytest.raises(ValueError, match="is not valid TOML: line 2 is not UTF-8"):
        read({"CLOUDRAY_CONFIG": str(path)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("progres = true", "{path}: there is no setting 'progres'. Did you mean 'progress'?"),
        ("[embedded]\nnum_cpu = 1", "[embedded] of {path}: there is no setting 'num_cpu'. Did you"),
        ("num_cpu = 1", "{path}: there is no setting 'num_cpu'. Did you mean 'num_cpus'?"),
        ("num_cpus = 1", "{path}: num_cpus belongs under [embedded]"),
        (
            "[timing]\nprogress = true",
            "[timing] of {path}: progress belongs at the top, before any",
        ),
        ("[timing]\nnum_cpus = 1", "[timing] of {path}: num_cpus belongs under [embedded]"),
        (
            "[embeded]\nnum_cpus = 1",
            "{path}: there is no setting 'embeded'. Did you mean 'embedded'",
        ),
        ("[cluster.a]\naddress = 1", "there is no setting 'cluster'. Did you mean 'clusters'?"),
        ("colour = 1", "{path}: there is no setting 'colour'."),
        ("runtime_env = 3", "{path}: [runtime_env] must be a table, not the number 3"),
        ("[runtime_env]\npip = ['x']", "[runtime_env] of {path}: there is no setting 'pip'."),
        ("[clusters]\na = 's3://b'", "{path}: [clusters.a] must be a table, not the text 's3://b'"),
        ("clusters = []", "{path}: [clusters] must be a table, not the list []"),
        ("[clusters.a]\nadress = 's3://b'", "no setting 'adress'. Did you mean 'address'?"),
        ("[clusters.a]", "{path}: [clusters.a] must have an address, a URL such as"),
        ("[clusters.a]\naddress = 3", 'must have an address, a URL such as "s3://bucket/prefix", '),
        ("[clusters.a]\naddress = 'b'", "not the text 'b'"),
        ("progress = 1", "{path}: progress must be true or false, not the number 1"),
        ("progress = 'no'", "{path}: progress must be true or false, not the text 'no'"),
        ("namespace = true", "{path}: namespace must be a text, not the boolean True"),
        (
            "[embedded]\nnum_cpus = '4'",
            "{path}: num_cpus in [embedded] must be a number, not the text '4'",
        ),
        ("[embedded]\nnum_cpus = true", "num_cpus in [embedded] must be a number, not the boolean"),
        ("[embedded]\nmemory = 2024-01-01", 'must be a number of bytes or a text such as "2 GB"'),
        ("[embedded]\nresources = []", "must be a table of names and numbers, not the list []"),
        ("[embedded]\nnum_cpus = -1", "num_cpus in [embedded]: The quantity of resource num_cpus"),
        ("[embedded]\nmemory = 'lots'", "{path}: memory in [embedded]: memory='lots' is no size"),
        ("[runtime_env]\nenv_vars = { A = 1 }", "{path}: env_vars in [runtime_env]: runtime_env"),
        ("traceback = 'long'", "{path}: traceback: traceback='long' is neither"),
    ],
)
def test_a_mistake_in_it_is_told_with_file_and_key(
    read_text: Read, path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the message is compared below
        read_text(text)
    assert message.format(path=path) in str(info.value)
    assert str(path) in str(info.value)
