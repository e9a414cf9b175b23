from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from cloudray.cli.app import COMMANDS
from cloudray.version import __version__
from tests.integration.programs import ROOT
from tests.unit.cli.conftest import Ended

Cloudray = Callable[..., Ended]


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has loaded after some code."""
    program = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(done.stderr.split())


def test_help_names_every_command(cloudray: Cloudray) -> None:
    ended = cloudray("--help")
    assert ended.code == 0
    for command in COMMANDS:
        assert f"│ {command} " in ended.output


def test_without_a_word_there_is_help(cloudray: Cloudray) -> None:
    assert cloudray().output == cloudray("--help").output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cloudray: Cloudray, command: str) -> None:
    for option in ("--help", "-h"):
        ended = cloudray(command, option)
        assert ended.code == 0
        assert f"Usage: cloudray {command} " in ended.output


def test_the_version_is_told(cloudray: Cloudray) -> None:
    assert cloudray("--version") == Ended(0, f"cloudray {__version__}\n", "")


def test_a_mistyped_command_gets_a_suggestion(cloudray: Cloudray) -> None:
    assert cloudray("stauts") == Ended(
        2,
        "",
        "cloudray: there is no command 'stauts'. Did you mean 'status'? `cloudray --help` shows "
        "all.\n",
    )


@pytest.mark.parametrize("group", ["jobs", "key"])
def test_a_group_without_a_command_shows_its_help(cloudray: Cloudray, group: str) -> None:
    ended = cloudray(group)
    assert ended == Ended(2, cloudray(group, "--help").output, "")


@pytest.mark.parametrize(
    ("words", "meant"), [(["jobs", "lst"], "'list'"), (["jobs", "cancle"], "'cancel'")]
)
def test_a_mistyped_command_of_a_group_gets_a_suggestion(
    cloudray: Cloudray, words: list[str], meant: str
) -> None:
    ended = cloudray(*words)
    assert (ended.code, ended.output) == (2, "")
    assert ended.errors == (
        f"cloudray jobs: there is no command {words[1]!r}. Did you mean {meant}? "
        "`cloudray jobs --help` shows all.\n"
    )


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["s3://bucket/a"], "`cloudray status s3://bucket/a`"),
        (["jobs", "s3://bucket/a"], "`cloudray jobs list s3://bucket/a`"),
    ],
)
def test_who_forgets_the_command_before_an_address_gets_one(
    cloudray: Cloudray, words: list[str], meant: str
) -> None:
    ended = cloudray(*words)
    assert ended.code == 2
    assert f"Did you mean {meant}?" in ended.errors


def test_a_word_like_nothing_gets_no_suggestion(cloudray: Cloudray) -> None:
    assert "Did you mean" not in cloudray("key", "xyzzy").errors


def test_a_word_that_is_missing_or_too_many_is_told_with_the_usage(cloudray: Cloudray) -> None:
    missing = cloudray("jobs", "show")
    assert missing.code == 2
    assert missing.errors.startswith("cloudray jobs show: Missing argument 'JOB'. Usage: cloudray")
    extra = cloudray("status", "memory://a", "b")
    assert extra.code == 2
    assert "(b). Usage: cloudray status [OPTIONS]" in extra.errors


def test_a_job_is_named_before_its_cluster(cloudray: Cloudray) -> None:
    ended = cloudray("jobs", "show", "s3://bucket/a", "nightly")
    assert ended.code == 2
    assert ended.errors == (
        "cloudray jobs show: s3://bucket/a is no job: name the job first, and then the cluster\n"
    )


def test_a_mistyped_option_gets_a_suggestion(cloudray: Cloudray) -> None:
    ended = cloudray("status", "--jsn")
    assert ended.code == 2
    assert ended.errors == "cloudray status: there is no option --jsn. Did you mean --json?\n"


def test_a_command_loads_only_what_it_needs() -> None:
    loaded = modules_after("from cloudray.cli.app import run\nrun(['settings'])")
    assert "cloudray.cli.settings" in loaded
    others = {module for module, _ in COMMANDS.values()} - {"cloudray.cli.settings"}
    assert not loaded & {*others, "obstore", "boto3", "fsspec", "cloudray.agent.core"}


def test_settings_are_shown_with_where_they_come_from(
    cloudray: Cloudray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDRAY_TRACEBACK", "full")
    ended = cloudray("settings", "--json")
    assert json.loads(ended.output)["traceback"] == {
        "value": "full",
        "from": "environment CLOUDRAY_TRACEBACK",
    }
    assert "'full'" in cloudray("settings").output


def test_settings_show_no_secrets(cloudray: Cloudray, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "crk_" + 43 * "A"
    monkeypatch.setenv("CLOUDRAY_KEY", key)
    monkeypatch.setenv("CLOUDRAY_ADDRESS", "memory://settings")
    for words in (("settings",), ("settings", "--json")):
        ended = cloudray(*words)
        assert ended.code == 0, ended.errors
        assert key not in ended.output
        assert "memory://settings" in ended.output


def test_a_setting_that_is_wrong_is_told_in_one_line(
    cloudray: Cloudray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDRAY_TRACEBACK", "long")
    ended = cloudray("settings")
    assert ended.code == 2
    (line,) = ended.errors.splitlines()
    assert line.startswith("cloudray settings: The environment variable CLOUDRAY_TRACEBACK=long")


def test_python_dash_m_cloudray_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloudray", "--version"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"cloudray {__version__}\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cloudray", "settings"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
