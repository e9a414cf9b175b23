"""The files in `deploy/` are what they say they are; their command is tested with the command."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "cloudray-worker.service"
#: What systemd reads as yes.
YES = {"yes", "true", "on", "1"}


def read_unit(text: str) -> dict[str, dict[str, list[str]]]:
    """The settings of a unit's sections, each with its values in their order."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(("#", ";")):
            continue
        header = re.fullmatch(r"\[(\w+)\]", line)
        if header is not None:
            section = sections.setdefault(header[1], {})
            continue
        setting = re.fullmatch(r"([A-Z]\w*)=(.*)", line)
        assert setting is not None, f"line {number} is no setting: {line}"
        assert section is not None, f"line {number} is in no section: {line}"
        section.setdefault(setting[1], []).append(setting[2])
    return sections


SECTIONS = read_unit(UNIT.read_text())
SERVICE = {name: values[-1] for name, values in SECTIONS["Service"].items()}


def test_the_unit_has_the_sections_of_a_service_and_says_nothing_twice() -> None:
    assert list(SECTIONS) == ["Unit", "Service", "Install"]
    twice = [name for section in SECTIONS.values() for name in section if len(section[name]) > 1]
    assert twice == []


def test_the_service_starts_with_the_machine_once_there_is_a_network() -> None:
    assert SECTIONS["Install"]["WantedBy"] == ["multi-user.target"]
    assert SECTIONS["Unit"]["After"] == SECTIONS["Unit"]["Wants"] == ["network-online.target"]


def test_the_service_comes_back_but_not_after_a_mistake_in_its_options() -> None:
    assert SERVICE["Restart"] == "always"
    assert SERVICE["RestartPreventExitStatus"] == "2"
    assert SECTIONS["Unit"]["StartLimitIntervalSec"] == ["0"]


def test_only_the_agent_is_told_to_leave_and_it_has_time_for_that() -> None:
    assert (SERVICE["KillMode"], SERVICE["KillSignal"]) == ("mixed", "SIGTERM")
    drain = re.search(r"--drain-timeout (\d+)", SERVICE["ExecStart"])
    assert drain is not None
    assert int(SERVICE["TimeoutStopSec"]) > int(drain[1])


def test_a_task_that_takes_too_much_memory_does_not_end_the_service() -> None:
    assert SERVICE["OOMPolicy"] == "continue"


def test_the_service_runs_as_a_user_of_its_own_with_folders_of_its_own() -> None:
    assert SERVICE["User"] == "cloudray"
    environment = dict(pair.split("=", 1) for pair in SERVICE["Environment"].split())
    assert environment == {
        "HOME": f"/var/lib/{SERVICE['StateDirectory']}",
        "XDG_RUNTIME_DIR": f"/run/{SERVICE['RuntimeDirectory']}",
    }
    assert SERVICE["WorkingDirectory"] == environment["HOME"]
    assert SERVICE["StateDirectoryMode"] == SERVICE["RuntimeDirectoryMode"] == "0700"


def test_tasks_may_not_change_the_machine_but_fork_and_map_code() -> None:
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "ProtectKernelModules"):
        assert SERVICE[name] in YES
    assert SERVICE["ProtectSystem"] == "strict"
    assert SERVICE["CapabilityBoundingSet"] == ""
    assert not {"MemoryDenyWriteExecute", "PrivateDevices", "PrivateNetwork"} & SERVICE.keys()


def test_the_unit_reads_the_environment_file_that_its_comment_installs() -> None:
    comments = [line for line in UNIT.read_text().splitlines() if line.startswith("#")]
    (install,) = [line for line in comments if "worker.env" in line]
    assert install.endswith(f"worker.env {SERVICE['EnvironmentFile']}")
    assert "-m 600" in install


def test_systemd_finds_nothing_wrong_with_the_unit_where_there_is_systemd(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    # It looks for the program too, which is not installed here.
    text, replaced = re.subn(
        r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", UNIT.read_text(), flags=re.MULTILINE
    )
    assert replaced == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    if analyze is not None:
        done = subprocess.run(
            [analyze, "verify", str(copy)], capture_output=True, check=False, text=True
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_environment_file_has_only_variables_and_comments() -> None:
    lines = (ROOT / "deploy" / "worker.env").read_text().splitlines()
    assert all(re.fullmatch(r"|#.*|[A-Z_]+=.*", line) for line in lines)


def test_the_unit_uses_no_variable_that_the_environment_file_lacks() -> None:
    known = re.findall(r"^#?([A-Z_]+)=", (ROOT / "deploy" / "worker.env").read_text(), re.MULTILINE)
    assert set(re.findall(r"\$(\w+)", SERVICE["ExecStart"])) <= set(known)
