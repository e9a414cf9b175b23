"""The user's own file of settings: `~/.config/cloudray.toml`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cloudray.api.settings import SECRET, SETTINGS, Setting, folder
from cloudray.api.wording import did_you_mean

#: Names another file; `/dev/null` stands for none.
VARIABLE = "CLOUDRAY_CONFIG"
#: The section of the clusters that have names.
CLUSTERS = "clusters"
_NAME = "cloudray.toml"
_SECTIONS = {setting.section for setting in SETTINGS.values() if setting.section}
#: What TOML calls its types.
_TYPES = {bool: "boolean", str: "text", int: "number", float: "number", dict: "table", list: "list"}


class UserFile(msgspec.Struct, frozen=True):
    """What stands in the file, checked."""

    #: where it is, or would be; None when this user has no home
    path: Path | None
    #: setting -> value
    values: Mapping[str, Any] = {}
    #: name of a cluster -> its URL
    clusters: Mapping[str, str] = {}
    #: name of a cluster -> the file of its key
    key_files: Mapping[str, str] = {}


def path_of(environ: Mapping[str, str]) -> Path | None:
    """Where the file lies; None when there is no home folder.

    >>> path_of({"XDG_CONFIG_HOME": "/home/ada/settings"}).as_posix()
    '/home/ada/settings/cloudray.toml'
    """
    named = environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    base = environ.get("XDG_CONFIG_HOME")
    # The standard says that a path which is not absolute is to be ignored.
    if base and Path(base).is_absolute():
        return Path(base) / _NAME
    try:
        return Path.home() / ".config" / _NAME
    except RuntimeError:
        return None


def read(environ: Mapping[str, str]) -> UserFile:
    """The settings of the user's file; none when there is no file.

    Raises ValueError for a file that is no TOML, for what it has that is no setting, and for a
    value of a wrong type or that is not allowed; FileNotFoundError when `CLOUDRAY_CONFIG` names a
    file that is not there.
    """
    path = path_of(environ)
    if path is None:
        return UserFile(None)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if environ.get(VARIABLE):
            raise FileNotFoundError(
                f"{VARIABLE}={environ[VARIABLE]} names a file that does not exist"
            ) from None
        return UserFile(path)
    except NotADirectoryError:
        return UserFile(path)
    except PermissionError:
        # Another user's home, as services have it: whether a file is there cannot be known.
        if environ.get(VARIABLE) or os.access(path.parent, os.X_OK):
            raise
        return UserFile(path)
    return _parse(path, text) if text else UserFile(path)


def _parse(path: Path, text: bytes) -> UserFile:
    import tomllib  # only who has a file needs it

    try:
        found = tomllib.loads(text.decode())
    except tomllib.TOMLDecodeError as error:
        # Its message ends with line and column, but for this.
        end = f"at the end, line {len(text.splitlines())}"
        told = str(error).replace("at end of document", end)
        raise ValueError(f"{path} is not valid TOML: {told}") from None
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} is not valid TOML: line {line} is not UTF-8") from None
    clusters, key_files = _clusters(path, found.pop(CLUSTERS, {}))
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key in _SECTIONS:
            entries = _table(path, f"[{key}]", value).items()
            values |= {name: _keep(path, key, name, each) for name, each in entries}
        else:
            values[key] = _keep(path, "", key, value)
    return UserFile(path, values, clusters, key_files)


def _keep(path: Path, section: str, key: str, value: Any) -> Any:
    setting = SETTINGS.get(key)
    if setting is None or setting.section != section:
        raise _unknown(path, section, key, setting)
    if setting.kind is SECRET:
        raise ValueError(
            f"{path}: {setting.key} does not belong here, where it is soon copied along: put it "
            'into a file of its own and write key_file = "that file"'
        )
    if not setting.kind.fits(value):
        raise ValueError(
            f"{path}: {setting.key} must be {setting.kind.wants}, not the {_describe(value)}"
        )
    try:
        return value if setting.check is None else setting.check(setting.name, value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {setting.key}: {error}") from None


def _unknown(path: Path, section: str, key: str, setting: Setting | None) -> ValueError:
    place = f"[{section}] of {path}" if section else str(path)
    if setting is not None:
        where = (
            f"under [{setting.section}]" if setting.section else "at the top, before any [section]"
        )
        return ValueError(f"{place}: {key} belongs {where}")
    # Whoever misspells a name may have the wrong section too; the second mistake is told next.
    known = {name for name, each in SETTINGS.items() if each.section == section}
    question = did_you_mean(key, known) or did_you_mean(
        key, {*SETTINGS, *(() if section else (*_SECTIONS, CLUSTERS))}
    )
    return ValueError(f"{place}: there is no setting {key!r}.{question}")


#: What a named cluster may have.
_OF_CLUSTERS = ("address", "key_file")


def _clusters(path: Path, found: object) -> tuple[dict[str, str], dict[str, str]]:
    """The addresses of the named clusters, and the files of their keys."""
    clusters: dict[str, str] = {}
    key_files: dict[str, str] = {}
    for name, found_there in _table(path, f"[{CLUSTERS}]", found).items():
        place = f"[{CLUSTERS}.{name}]"
        entry = _table(path, place, found_there)
        for key in entry:
            if key not in _OF_CLUSTERS:
                question = did_you_mean(key, _OF_CLUSTERS)
                raise ValueError(f"{place} of {path}: there is no setting {key!r}.{question}")
        address = entry.get("address")
        if not isinstance(address, str) or "://" not in address:
            raise ValueError(
                f'{path}: {place} must have an address, a URL such as "s3://bucket/prefix"'
                + (f", not the {_describe(address)}" if "address" in entry else "")
            )
        clusters[name] = address
        if "key_file" in entry:
            key_file = entry["key_file"]
            if not isinstance(key_file, str) or not key_file:
                raise ValueError(f"{path}: {place}: key_file must be the path of a file")
            key_files[name] = folder("key_file", key_file)
    return clusters, key_files


def _table(path: Path, place: str, value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError(f"{path}: {place} must be a table, not the {_describe(value)}")


def _describe(value: object) -> str:
    return f"{_TYPES.get(type(value), type(value).__name__)} {value!r}"
