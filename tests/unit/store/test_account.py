from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from cloudray.store.account import Account

ROOT = Path(__file__).parents[3]
#: Adds to the account again and again.
ADDER = """
import sys
from cloudray.store.account import Account
for _ in range(int(sys.argv[2])):
    with Account(sys.argv[1]) as account:
        account.change(used=3, spare=1)
"""
#: Locks the account and says so; ends when it is killed.
HOLDER = """
import sys, time
from cloudray.store.account import Account
with Account(sys.argv[1]) as account:
    account.change(used=100)
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "account")


def numbers(path: str) -> tuple[int, int]:
    with Account(path) as account:
        return account.used, account.spare


def test_a_new_account_is_empty(path: str) -> None:
    assert numbers(path) == (0, 0)


def test_it_takes_its_space_before_it_is_needed(path: str) -> None:
    Account(path).create()
    assert Path(path).stat().st_size == 16
    assert numbers(path) == (0, 0)


def test_changes_add_up(path: str) -> None:
    with Account(path) as account:
        account.change(used=5)
        account.change(used=-2, spare=7)
    assert numbers(path) == (3, 7)


def test_no_number_falls_below_zero(path: str) -> None:
    with Account(path) as account:
        account.change(used=-5, spare=-1)
    assert numbers(path) == (0, 0)


def test_an_error_inside_lets_go_of_it(path: str) -> None:
    with Account(path) as account:
        account.change(used=1)
    with pytest.raises(ZeroDivisionError), Account(path):
        _ = 1 / 0
    assert numbers(path) == (1, 0)


def test_processes_and_threads_lose_no_change(path: str) -> None:
    adders = [
        subprocess.Popen([sys.executable, "-c", ADDER, path, "300"], cwd=ROOT) for _ in range(3)
    ]

    def add() -> None:
        for _ in range(300):
            with Account(path) as account:
                account.change(used=3, spare=1)

    threads = [Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [adder.wait(60) for adder in adders] == [0, 0, 0]
    assert numbers(path) == (5 * 300 * 3, 5 * 300)


def test_whoever_is_killed_lets_go_of_it(path: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, cwd=ROOT
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
        assert numbers(path) == (100, 0)


def test_a_fork_waits_until_it_is_free(path: str) -> None:
    """So the child has no copy of a lock that it would keep if its parent were killed."""
    order: list[str] = []
    account = Account(path)
    account.__enter__()

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        order.append("forked")
        os.waitpid(child, 0)

    forking = Thread(target=fork)
    forking.start()
    forking.join(0.2)
    order.append("left")
    account.__exit__(None, None, None)
    forking.join()
    assert order == ["left", "forked"]


def test_a_forked_child_locks_it_for_itself(path: str) -> None:
    with Account(path) as account:
        account.change(used=1)
    child = os.fork()
    if child == 0:
        with Account(path) as account:
            account.change(used=10)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert numbers(path) == (11, 0)
