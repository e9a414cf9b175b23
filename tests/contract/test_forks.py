"""Object storage and processes that were forked: a client has threads, which do not fork."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
