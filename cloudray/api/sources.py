"""Where settings come from: arguments of `init`, the environment, and the user's file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from cloudray import keyring
from cloudray.api import userfile
from cloudray.api.runtime_env import wishes_of
from cloudray.api.settings import BY_ARGUMENT, BY_VARIABLE, EMBEDDED, SECRET, SETTINGS, Setting
from cloudray.api.userfile import UserFile
from cloudray.api.wording import did_you_mean, nearest
from cloudray.configuration import Configuration
from cloudray.keyring import ClusterKey
from cloudray.timing import EMBEDDED as EMBEDDED_TIMING
from cloudray.timing import Timing, timing_for

_PREFIX = "CLOUDRAY_"
#: What Ray's `init` takes as an address that is none.
_HERE, _ANY = "local", "auto"
#: Arguments of `init` that Ray has, but hides.
_RAYS_NAMES = {
    "_memory": "memory",
    "_object_spilling_directory": "object_spilling_directory",
}


class Chosen(msgspec.Struct, frozen=True):
    """The value of a setting, and whose it is."""

    value: Any
    origin: Literal["argument", "environment", "file", "default"]
    #: completes the origin: the argument, the variable or the file
    place: str = ""

    @property
    def source(self) -> str:
        """Where it comes from, for people.

        >>> Chosen(2.0, "environment", "CLOUDRAY_NUM_CPUS").source
        'environment CLOUDRAY_NUM_CPUS'
        """
        return f"{self.origin} {self.place}".rstrip()


class Resolved(msgspec.Struct, frozen=True):
    """All settings of a process, put together."""

    configuration: Configuration
    #: by setting
    chosen: Mapping[str, Chosen]

    @property
    def sources(self) -> dict[str, str]:
        """Where each value comes from."""
        return {name: each.source for name, each in self.chosen.items()}


def resolve(arguments: Mapping[str, Any], environ: Mapping[str, str]) -> Resolved:
    """Put the settings together; `arguments` are those of `init`, where None is not given.

    Raises TypeError or ValueError, in Ray's words, for a wrong argument; ValueError, naming
    variable or file, for what the environment or the user's file have; ValueError for settings
    that contradict each other. Warns of environment variables that look misspelt.
    """
    given = _from_arguments(arguments)
    exported = _from_environment(environ)
    file = userfile.read(environ)
    filed = {
        name: Chosen(value, "file", str(file.path))
        for name, value in file.values.items()
        if not _says_nothing(name, value)
    }
    usual = {name: Chosen(setting.default, "default") for name, setting in SETTINGS.items()}
    given |= _code_asked_for(arguments.get("runtime_env"))
    chosen = usual | filed | exported | given
    chosen["address"] = _address(chosen["address"], file)
    chosen |= _key(chosen, file)
    if "env_vars" in filed and "env_vars" in given:
        chosen["env_vars"] = _both(filed["env_vars"], given["env_vars"])
    _refuse_offer_of_others(chosen)
    configuration = Configuration(**{name: each.value for name, each in chosen.items()})
    _check_times(configuration, chosen)
    return Resolved(configuration, chosen)


def why_not_by_itself(resolved: Resolved, environ: Mapping[str, str]) -> str | None:
    """Why the first use must not start a cluster: who says so; None when it may."""
    if resolved.configuration.enable_auto_connect:
        return None
    who = resolved.chosen["enable_auto_connect"]
    if who.origin == "environment":
        return f"{who.place}={environ[who.place]}"
    return f"enable_auto_connect is false in {who.place}"


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for an argument of `init` that would be refused anyway."""
    _from_arguments(arguments)


def take_in(arguments: dict[str, Any], more: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Add to the arguments of `init` what Ray calls by another name; the rest has no effect.

    Raises RuntimeError, in Ray's words, for keywords that are not `known` either; ValueError for
    an argument that is given under both names.
    """
    unknown = sorted(more.keys() - known.keys())
    if unknown:
        question = did_you_mean(unknown[0], {*BY_ARGUMENT, "ignore_reinit_error", *known})
        raise RuntimeError(f"Unknown keyword argument(s): {', '.join(unknown)}.{question}")
    for rays, ours in _RAYS_NAMES.items():
        if more.get(rays) is not None:
            if arguments[ours] is not None:
                raise ValueError(f"{rays} is Ray's name of {ours}: give only one of them.")
            arguments[ours] = more[rays]


def _from_arguments(arguments: Mapping[str, Any]) -> dict[str, Chosen]:
    return {
        BY_ARGUMENT[keyword].name: Chosen(BY_ARGUMENT[keyword].keep(value), "argument", keyword)
        for keyword, value in arguments.items()
        if value is not None and not _says_nothing(keyword, value)
    }


def _code_asked_for(runtime_env: Mapping[str, Any] | None) -> dict[str, Chosen]:
    """The fields of a runtime environment that are settings of their own."""
    if not runtime_env:
        return {}
    wishes = wishes_of(runtime_env)
    return {
        name: Chosen(value, "argument", "runtime_env")
        for name in ("working_dir", "py_modules", "excludes")
        if (value := getattr(wishes, name)) is not None
    }


def _says_nothing(name: str, value: object) -> bool:
    """Whether this stands for the address that there is anyway."""
    return name == "address" and value in ("", _ANY)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Chosen]:
    found: dict[str, Chosen] = {}
    # Of several variables the one that the table names first counts: it comes last here.
    for variable, setting in reversed(list(BY_VARIABLE.items())):
        text = environ.get(variable)
        if text and not _says_nothing(setting.name, text):
            found[setting.name] = Chosen(_read(variable, setting, text), "environment", variable)
    _warn_of_misspelt(environ)
    return found


def _read(variable: str, setting: Setting, text: str) -> Any:
    try:
        value = setting.kind.read(text)
        return value if setting.check is None else setting.check(setting.name, value)
    except (TypeError, ValueError) as error:
        shown = "…" if setting.kind is SECRET else text
        raise ValueError(
            f"The environment variable {variable}={shown} is not allowed: {error}"
        ) from None


def _warn_of_misspelt(environ: Mapping[str, str]) -> None:
    """Others may use the prefix too, so only what is nearly a setting is worth a warning."""
    ours = (name for name in (*BY_VARIABLE, userfile.VARIABLE) if name.startswith(_PREFIX))
    known = [name.removeprefix(_PREFIX) for name in ours]
    for variable in environ:
        rest = variable.removeprefix(_PREFIX)
        if variable == rest or rest in known:
            continue
        meant = nearest(rest, known)
        if meant is not None:
            warnings.warn(
                f"The environment variable {variable} is no setting of CloudRay and has no "
                f"effect. Did you mean {_PREFIX}{meant}?",
                stacklevel=5,  # whoever called `init`
            )


def _address(address: Chosen, file: UserFile) -> Chosen:
    """The address as a URL, or None for an embedded cluster."""
    name = address.value
    if name is None or "://" in name:
        return address
    if name in file.clusters:
        place = f"{address.place}, [{userfile.CLUSTERS}.{name}] of {file.path}"
        return Chosen(file.clusters[name], address.origin, place)
    if name == _HERE:
        return Chosen(None, address.origin, address.place)
    if name[0] in "~." or any(sign in name for sign in "/\\:"):
        # A path, or a host and port as Ray has them: what opens stores says how to write it.
        return address
    known = ", ".join(f"[{userfile.CLUSTERS}.{each}]" for each in sorted(file.clusters)) or "none"
    raise ValueError(
        f"There is no cluster {name!r} (from {address.source}): {file.path or 'the user file'} has "
        f"{known}.{did_you_mean(name, file.clusters)} An address is a URL such as "
        "s3://bucket/prefix or file:///folder, or the name of such a section."
    )


#: Who says it: the first counts.
_ORIGINS = ("argument", "environment", "file")


def _key(chosen: Mapping[str, Chosen], file: UserFile) -> dict[str, Chosen]:
    """The key of the cluster, read from its file if need be.

    Raises ValueError for a file that is none, and for a key of a cluster that makes its own.
    """
    key, key_file = chosen["key"], chosen["key_file"]
    address = chosen["address"].value
    if address is None:
        given = [name for name in ("key", "key_file") if chosen[name].origin == "argument"]
        if given:
            raise ValueError(
                f"{given[0]} is for clusters that have an address: one that ends with this process "
                "makes a key of its own."
            )
        return {"key": Chosen(None, "default"), "key_file": Chosen(None, "default")}
    named = next((name for name, url in file.clusters.items() if url == address), None)
    said = key_file.origin in ("argument", "environment")
    if named is not None and named in file.key_files and not said:
        place = f"[{userfile.CLUSTERS}.{named}] of {file.path}"
        key_file = Chosen(file.key_files[named], "file", place)
    for origin in _ORIGINS:
        if key.origin == origin:
            found = ClusterKey(key.value.text, key.source)
            nothing = Chosen(None, "default")
            return {"key": Chosen(found, key.origin, key.place), "key_file": nothing}
        if key_file.origin == origin:
            found = keyring.read_file(key_file.value, key_file.source)
            return {"key": Chosen(found, origin, key_file.place), "key_file": key_file}
    return {}


def _both(filed: Chosen, given: Chosen) -> Chosen:
    return Chosen({**filed.value, **given.value}, "argument", f"{given.place} and {filed.source}")


def _refuse_offer_of_others(chosen: dict[str, Chosen]) -> None:
    """Who joins a cluster does not say what it offers, and what the environment says is idle."""
    address = chosen["address"]
    if address.value is None:
        return
    given = [
        name
        for name, setting in SETTINGS.items()
        if setting.applies == EMBEDDED and chosen[name].origin == "argument"
    ]
    if given:
        whence = (
            f" The address comes from {address.source}; address={_HERE!r} starts a cluster on "
            "this machine."
            if address.origin != "argument"
            else ""
        )
        raise ValueError(
            f"When connecting to an existing cluster, {' and '.join(given)} must not be provided: "
            f"the agents of {address.value} say what they offer.{whence}"
        )
    for name, setting in SETTINGS.items():
        if setting.applies == EMBEDDED:
            chosen[name] = Chosen(setting.default, "default")


def _check_times(configuration: Configuration, chosen: Mapping[str, Chosen]) -> None:
    """The rules that agents rely on."""
    times = configuration.timing(usual_timing(configuration.address))

    def describe(name: str) -> str:
        return f"{name}={getattr(times, name):g} ({chosen[name].source})"

    if times.lease_s < 3 * times.heartbeat_s:
        raise ValueError(
            f"{describe('lease_s')} must be at least three times {describe('heartbeat_s')}: an "
            "agent would be taken for dead after one lost heartbeat."
        )
    if times.commit_s >= times.lease_s / 4:
        raise ValueError(
            f"{describe('commit_s')} must be less than a quarter of {describe('lease_s')}: results "
            "would be published too late for their lease."
        )


def usual_timing(address: str | None) -> Timing:
    """The times of a new cluster there unless the user says otherwise."""
    return EMBEDDED_TIMING if address is None else timing_for(address)
