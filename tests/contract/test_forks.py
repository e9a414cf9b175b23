"""Object storage and processes that were forked: a client has threads, which do not fork."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.drivers import run_driver


def test_a_child_of_a_driver_of_a_bucket_is_told_what_to_do(
    tmp_path: Path, bucket_url: Callable[[], str]
) -> None:
    program = f"""
    import os, sys
    import cloudray as ray
    ray.init({bucket_url()!r})
    ref = ray.put(5)
    child = os.fork()
    if child == 0:
        try:
            ray.init({bucket_url()!r})
        except Exception as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(ray.get(ref))
    """
    said, value = run_driver(program, tmp_path).lines()
    assert "forked from one that uses object storage" in said
    assert 'multiprocessing.get_context("spawn")' in said
    assert value == "5"


def test_the_second_client_of_a_parent_does_not_hang_its_child(
    tmp_path: Path, bucket_url: Callable[[], str]
) -> None:
    program = f"""
    import os
    from cloudray.store import open_store
    url = {bucket_url()!r} + "&client=aiobotocore"
    store = open_store(url)
    store.put("key", b"of the parent")
    child = os.fork()
    if child == 0:
        try:
            store.get("key")
        except Exception as error:
            print(error, flush=True)
        store.close()
        # One of its own works.
        own = open_store(url)
        print(own.get("key"), flush=True)
        own.close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(status, store.get("key"))
    store.close()
    """
    said, own, parents = run_driver(program, tmp_path).lines()
    assert "forked from the one that opened it" in said
    assert own == "b'of the parent'"
    assert parents == "0 b'of the parent'"


@pytest.mark.parametrize("closed", [True, False])
def test_the_second_client_works_while_its_interpreter_ends(
    tmp_path: Path, bucket_url: Callable[[], str], *, closed: bool
) -> None:
    program = f"""
    import atexit
    from cloudray.store import open_store
    store = open_store({bucket_url()!r}.replace("127.0.0.1", "localhost") + "&client=aiobotocore")
    def leave():
        store.put("key", b"at the end")
        print(store.get("key"))
        if {closed}:
            store.close()
    atexit.register(leave)
    """
    ended = run_driver(program, tmp_path)
    assert ended.lines() == ["b'at the end'"]
    assert ended.err == ""
