"""The settings of a driver: one table, from which checks, messages and docs are made.

Each may be given as an argument of `init`, in the environment, or in the user's file, in that
order; `cloudray.api.sources` puts them together.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cloudray.api import checks
from cloudray.api.runtime_env import env_vars_of
from cloudray.api.wording import wrong_type
from cloudray.code.wishes import excludes_of, py_modules_of, working_dir_of
from cloudray.configuration import RETENTIONS, Configuration
from cloudray.keyring import ClusterKey
from cloudray.sizes import parse_size

_NONE = type(None)
_YES = ("1", "true", "yes", "on")
_NO = ("0", "false", "no", "off")
_TRACEBACKS = ("short", "full")
_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
_LONGEST_NAME = 200


class Kind(msgspec.Struct, frozen=True):
    """What values of a setting are, and how they stand in an environment variable."""

    #: a value must be an instance of one of these
    types: tuple[type, ...]
    #: completes "it must be …"
    wants: str
    #: takes the text of a variable; returns a value of these types or raises ValueError, whose
    #: message completes "VARIABLE=text is not allowed: …"
    read: Callable[[str], Any]

    def fits(self, value: object) -> bool:
        """Whether a value has one of the types; a bool is no number, one of NumPy's is."""
        if isinstance(value, bool):
            return bool in self.types
        if isinstance(value, self.types):
            return True
        if float not in self.types:
            return False
        from numbers import Real

        return isinstance(value, Real)


def _read_flag(text: str) -> bool:
    word = text.strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError(f"it must be one of {', '.join(_YES)} or {', '.join(_NO)}")


def _read_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("it must be a number") from None


def _read_json(kind: type, example: str) -> Callable[[str], Any]:
    """A reader of JSON of one kind."""

    def read(text: str) -> Any:
        import json  # few settings need it

        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, kind):
            return found
        raise ValueError(f"it must be JSON such as {example}")

    return read


FLAG = Kind((bool,), "true or false", _read_flag)
TEXT = Kind((str,), "a text", str)
PATH = Kind((str, os.PathLike), "a text", str)
NUMBER = Kind((float, int), "a number", _read_number)
SIZE = Kind((float, int, str), 'a number of bytes or a text such as "2 GB"', str)
SECRET = Kind((str,), "a key, as `cloudray key new` makes it", str)
LEVEL = Kind((int, str), 'a level such as "WARNING"', str)
AMOUNTS = Kind((Mapping,), "a table of names and numbers", _read_json(dict, '{"licence": 2}'))
VARIABLES = Kind((Mapping,), "a table of names and texts", _read_json(dict, '{"licence": 2}'))

EVERYWHERE = ""
#: The settings that only a cluster heeds that `init` starts on this machine.
EMBEDDED = "embedded clusters only"
#: Those that are written into the record of a new cluster.
NEW_CLUSTER = "new clusters only"


class Setting(msgspec.Struct, frozen=True):
    """One thing that a user may set; its name is the field of `Configuration` that keeps it."""

    name: str
    kind: Kind
    #: one sentence for the documentation
    doc: str
    #: takes the setting's name and a value of the kind's types; returns what is kept, or raises
    #: ValueError or TypeError. None keeps the value as it is
    check: Callable[[str, Any], Any] | None = None
    #: the environment variables that set it; the first that is set counts
    variables: tuple[str, ...] = ()
    #: the keyword of `init`; empty when it has none
    argument: str = ""
    #: does what `check` does, for an argument that has another form
    check_argument: Callable[[str, Any], Any] | None = None
    #: the section of the user's file; empty for the top
    section: str = ""
    #: where it applies
    applies: str = EVERYWHERE

    @property
    def default(self) -> Any:
        """The value when nobody sets it."""
        return getattr(Configuration(), self.name)

    @property
    def key(self) -> str:
        """How the documentation and messages name it in the file."""
        return f"{self.name} in [{self.section}]" if self.section else self.name

    def keep(self, value: Any) -> Any:
        """What to keep for an argument, after checking it; raises TypeError or ValueError."""
        if not self.kind.fits(value):
            raise wrong_type(self.argument or self.name, (*self.kind.types, _NONE), value)
        check = self.check_argument or self.check
        return value if check is None else check(self.name, value)

    def show(self, value: Any) -> str:
        """The value for people."""
        if self.kind is VARIABLES:
            # Secrets are there, and whoever shows the table may not want to show them.
            return repr(dict.fromkeys(value, "…"))
        return repr(logging.getLevelName(value) if self.kind is LEVEL else value)


def size(name: str, value: float | str) -> int:
    """A number of bytes, or a text that says one; rounded up."""
    if not isinstance(value, str):
        return checks.memory(name, value)
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(f"{name}={error}") from None


def some_bytes(name: str, value: float | str) -> int:
    """A size above zero."""
    size_bytes = size(name, value)
    if not size_bytes:
        raise ValueError(f"{name}={value!r} leaves no room for any value")
    return size_bytes


def folder(name: str, value: str | os.PathLike[str]) -> str:
    """The absolute path of a folder, which need not exist."""
    if not os.fspath(value):
        raise ValueError(f"{name} is empty: name a folder")
    return str(Path(value).expanduser().absolute())


def level(name: str, value: int | str) -> int:
    """A level of `logging`, by number or name."""
    if isinstance(value, int):
        return value
    if value.strip().isdecimal():
        return int(value)
    known = logging.getLevelNamesMapping().get(value.strip().upper())
    if known is None:
        raise ValueError(f"{name}={value!r} is no level: it is one of {', '.join(_LEVELS)}")
    return known


def seconds(name: str, value: float) -> float:
    """A time above zero."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value!r} is no time: it is a number of seconds above 0")
    return float(value)


def traceback(name: str, value: str) -> str:
    """How much of a traceback to show."""
    if value not in _TRACEBACKS:
        raise ValueError(f"{name}={value!r} is neither {' nor '.join(map(repr, _TRACEBACKS))}")
    return value


def cluster_key(name: str, value: str) -> ClusterKey:
    """A key; neither its text nor a part of it is in any message."""
    return ClusterKey(value, name)


def namespace(name: str, value: str) -> str:
    """A label that is not empty, as Ray demands."""
    if not value:
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')
    return checks.text(name, value)


def job_name(name: str, value: str) -> str:
    """What a job is called: something that can be shown in a line, and is no id."""
    if not value.strip() or not value.isprintable() or len(value) > _LONGEST_NAME:
        raise ValueError(
            f"{name}={value!r:.80} is no name for a job: it has 1 to {_LONGEST_NAME} characters "
            "that can be shown"
        )
    return value


def retention(name: str, value: float) -> int:
    """One of the retention classes."""
    if value not in RETENTIONS:
        raise ValueError(
            f"{name}={value!r} is not allowed: a job stays for "
            f"{', '.join(map(str, RETENTIONS[:-1]))} or {RETENTIONS[-1]} days"
        )
    return int(value)


LIST = Kind((list, tuple), "a list of texts", _read_json(list, '["data/", "*.csv"]'))


def _variables(_name: str, value: Mapping[str, Any]) -> dict[str, str]:
    return env_vars_of({"env_vars": dict(value)})


def _table(*settings: Setting) -> dict[str, Setting]:
    return {setting.name: setting for setting in settings}


def _setting(
    name: str,
    kind: Kind,
    doc: str,
    check: Callable[[str, Any], Any] | None = None,
    *,
    argument: str | None = None,
    section: str = "",
    applies: str = EVERYWHERE,
    also: tuple[str, ...] = (),
) -> Setting:
    """A row whose variable, and unless said otherwise whose argument, are called as it is."""
    return Setting(
        name,
        kind,
        doc,
        check,
        (f"CLOUDRAY_{name.upper()}", *also),
        name if argument is None else argument,
        section=section,
        applies=applies,
    )


#: Every setting by name, in the order of the documentation.
SETTINGS: Mapping[str, Setting] = _table(
    _setting(
        "address",
        TEXT,
        "The cluster to join: a URL, or the name of one under `[clusters]` in the file. Without "
        'it, or with `"local"`, a cluster starts on this machine that ends with the process.',
        checks.text,
    ),
    _setting(
        "key",
        SECRET,
        "The key of the cluster, which signs all that is stored there; a new cluster gets it. "
        "Not in the file: see `key_file`. A cluster without a key trusts whoever may write to its "
        "storage.",
        cluster_key,
    ),
    _setting(
        "key_file",
        PATH,
        "A file that holds the key, and that nobody else may read. In the file of settings also "
        "under `[clusters.NAME]`.",
        folder,
    ),
    _setting("namespace", TEXT, "A label of the job.", namespace),
    _setting(
        "job",
        TEXT,
        "What the job is called in `cloudray jobs list`, and how `cloudray.get_job` finds it.",
        job_name,
    ),
    _setting(
        "retention_days",
        NUMBER,
        "How many days after its start a job ends, and all it stored goes: 1, 7 or 30.",
        retention,
    ),
    _setting(
        "num_cpus",
        NUMBER,
        "How many CPUs the cluster offers; by default all that the process may use.",
        checks.quantity,
        section="embedded",
        applies=EMBEDDED,
    ),
    _setting(
        "num_gpus",
        NUMBER,
        "How many GPUs it offers; by default none.",
        checks.gpus,
        section="embedded",
        applies=EMBEDDED,
    ),
    _setting(
        "memory",
        SIZE,
        "How much memory its tasks may ask for; by default 80 % of the machine's.",
        size,
        section="embedded",
        applies=EMBEDDED,
    ),
    _setting(
        "resources",
        AMOUNTS,
        "Quantities of custom resources that it offers, by name.",
        checks.resources,
        section="embedded",
        applies=EMBEDDED,
    ),
    _setting(
        "object_store_memory",
        SIZE,
        "How much memory its values may take before they go to disk; by default 30 % of the "
        "machine's, and no more than fits.",
        some_bytes,
        section="embedded",
        applies=EMBEDDED,
    ),
    _setting(
        "object_spilling_directory",
        PATH,
        "A folder on disk for values that find no room in memory; by default `/var/tmp`, or where "
        "temporary files go.",
        folder,
        section="embedded",
        applies=EMBEDDED,
    ),
    _setting(
        "log_to_driver",
        FLAG,
        "Whether what tasks print is printed by the driver.",
        also=("RAY_LOG_TO_DRIVER",),
    ),
    _setting(
        "logging_level",
        LEVEL,
        "The level of the logger `cloudray`: a name or number of `logging`.",
        level,
    ),
    _setting(
        "progress",
        FLAG,
        "Whether waiting shows how far tasks are, on terminals and in notebooks.",
    ),
    _setting(
        "traceback",
        TEXT,
        'How much of tracebacks is shown: `"short"` leaves out frames of CloudRay itself, '
        '`"full"` has all.',
        traceback,
    ),
    _setting(
        "dedup_logs",
        FLAG,
        "Whether lines that many processes print are folded into one.",
        also=("RAY_DEDUP_LOGS",),
    ),
    _setting(
        "enable_auto_connect",
        FLAG,
        "Whether the first use joins or starts a cluster when `init` was not called.",
        argument="",
        also=("RAY_ENABLE_AUTO_CONNECT",),
    ),
    Setting(
        "env_vars",
        VARIABLES,
        "Environment variables of all tasks of the driver. Those of the argument "
        '`runtime_env={"env_vars": …}` are added to the file\'s, and win.',
        _variables,
        argument="runtime_env",
        check_argument=lambda _name, value: env_vars_of(value),
        section="runtime_env",
    ),
    _setting(
        "working_dir",
        PATH,
        "A folder, .zip file or URL that becomes the working directory of all tasks of the driver, "
        'on whichever machine. Given by `runtime_env={"working_dir": …}`.',
        lambda _name, value: working_dir_of(value),
        argument="",
        section="runtime_env",
    ),
    _setting(
        "py_modules",
        LIST,
        "Packages, modules, wheels, .zip files and URLs that all of them can import. Given by "
        '`runtime_env={"py_modules": …}`.',
        lambda _name, value: py_modules_of(value),
        argument="",
        section="runtime_env",
    ),
    _setting(
        "excludes",
        LIST,
        "Patterns, as in `.gitignore`, of files that do not go along. Given by "
        '`runtime_env={"excludes": …}`.',
        lambda _name, value: excludes_of(value),
        argument="",
        section="runtime_env",
    ),
    _setting(
        "send_code",
        FLAG,
        "Whether local code that the driver has imported, and what lies beside its script, goes "
        "along to a cluster that is not embedded, where no `working_dir` is given.",
        argument="",
    ),
    _setting(
        "max_code_size",
        SIZE,
        "How much a folder or package may have, compressed, to go along.",
        some_bytes,
        argument="",
    ),
    *(
        _setting(name, NUMBER, doc, seconds, argument="", section="timing", applies=NEW_CLUSTER)
        for name, doc in (
            ("heartbeat_s", "How often an agent shows that it lives, in seconds."),
            (
                "lease_s",
                "How long a silent agent keeps its work, in seconds; three heartbeats or more.",
            ),
            (
                "commit_s",
                "How long results may lie unpublished, in seconds; under a quarter of the lease.",
            ),
            ("scan_s", "How often an idle agent looks for work unasked, in seconds."),
        )
    ),
)

#: The settings that come from the environment, by variable.
BY_VARIABLE: Mapping[str, Setting] = {
    variable: setting for setting in SETTINGS.values() for variable in setting.variables
}
#: Those that `init` takes, by keyword.
BY_ARGUMENT: Mapping[str, Setting] = {
    setting.argument: setting for setting in SETTINGS.values() if setting.argument
}


def markdown_table() -> str:
    """The settings as a table for the documentation."""
    rows = [
        "| setting | value | default | environment | section in the file | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS.values():
        default = setting.default
        cells = (
            f"`{setting.name}`",
            setting.kind.wants,
            "" if default in (None, "", {}) else f"`{setting.show(default)}`",
            ", ".join(f"`{variable}`" for variable in setting.variables),
            f"`[{setting.section}]`" if setting.section else "",
            setting.doc
            + (f" {setting.applies[0].upper()}{setting.applies[1:]}." if setting.applies else "")
            + ("" if setting.argument else " Not an argument of `init`."),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
