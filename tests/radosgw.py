"""Ceph's S3 in one process group: prints its port, serves until its input closes.

    python -m tests.radosgw [FOLDER]

One monitor, one OSD that keeps everything in memory, one gateway, from Debian's packages
`radosgw ceph-mon ceph-osd`; no manager. Nothing is left when it ends, however its parent did.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from http.client import HTTPConnection, HTTPException
from pathlib import Path

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "ceph-authtool", "monmaptool", "radosgw-admin")
#: As of the other local servers, so that one environment serves for all.
ACCESS_KEY, SECRET_KEY = "testing", "testing"
START_S = 120.0
LOOK_S = 0.1

_CONFIGURATION = """
[global]
fsid = {fsid}
mon initial members = a
mon host = 127.0.0.1:{mon}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
run dir = {folder}
admin socket =
log file = {folder}/$name.log
pid file =
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data = {folder}/mon
mon data avail warn = 1
mon data avail crit = 0
mon cluster log file = {folder}/cluster.log
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd max object name len = 256
osd max object namespace len = 64
rgw frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
rgw data = {folder}/rgw
rgw enable usage log = false
rgw enable ops log = false
"""


def missing() -> list[str]:
    """The programs that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def main() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_stop_at_eof, args=(stop,), daemon=True).start()
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="radosgw-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        gateway = _start(folder, stack, stop)
        if not stop.is_set():
            sys.stdout.write(f"{gateway}\n")
            sys.stdout.flush()
            stop.wait()


def _stop_at_eof(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def _start(folder: Path, stack: contextlib.ExitStack, stop: threading.Event) -> int:
    mon, gateway = _free_port(), _free_port()
    fsid = str(uuid.uuid4())
    configuration, keyring = folder / "ceph.conf", folder / "keyring"
    configuration.write_text(
        _CONFIGURATION.format(fsid=fsid, folder=folder, mon=mon, gateway=gateway)
    )
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()

    def run(*words: str | Path) -> None:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, check=False, text=True, timeout=60
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")

    def serve(*words: str | Path) -> None:
        # Its own group: a Ctrl-C at the terminal is ours.
        process = subprocess.Popen(
            [*map(str, words), "--conf", str(configuration), "--foreground"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Nothing of it is to be kept, so it need not be asked.
        stack.callback(process.wait)
        stack.callback(process.kill)

    every = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
    run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "--name", "mon.")
    run("ceph-authtool", keyring, "--name", "mon.", "--cap", "mon", "allow *")
    for name in ("client.admin", "osd.0"):
        run("ceph-authtool", keyring, "--gen-key", "--name", name, *every)
    address = f"[v1:127.0.0.1:{mon}]"
    monmap = folder / "monmap"
    run("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", fsid, monmap)
    mon_words: list[str | Path] = ["--id", "a", "--conf", configuration]
    run("ceph-mon", "--mkfs", *mon_words, "--monmap", monmap, "--keyring", keyring)
    serve("ceph-mon", "--id", "a")
    osd_uuid = str(uuid.uuid4())
    run("ceph", "--conf", configuration, "--connect-timeout", "30", "osd", "new", osd_uuid)
    osd: list[str | Path] = ["--id", "0", "--conf", configuration, "--osd-uuid", osd_uuid]
    run("ceph-osd", "--mkfs", *osd)
    serve("ceph-osd", "--id", "0")
    serve("radosgw", "--name", "client.admin")
    _await_gateway(gateway, folder, stop)
    keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
    user = ["user", "create", "--uid", "tests", "--display-name", "tests", *keys]
    run("radosgw-admin", "--conf", configuration, *user)
    return gateway


def _await_gateway(port: int, folder: Path, stop: threading.Event) -> None:
    deadline_s = time.monotonic() + START_S
    while not stop.wait(LOOK_S) and not _answers(port):
        if time.monotonic() > deadline_s:
            logs = [path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log")]
            sys.exit("radosgw did not start:\n" + "\n".join(logs))


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError, HTTPException):
        with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/")
            connection.getresponse()
        return True
    return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
