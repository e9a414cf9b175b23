from __future__ import annotations

from typing import Any

import pytest

import cloudray as ray
from cloudray.api.runtime_context import RuntimeContext
from cloudray.api.session import ClusterContext


def brew(cups: int) -> int:
    return cups


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "<remote function brew>"),
        ({"num_cpus": 2}, "<remote function brew, num_cpus=2>"),
        (
            {"num_cpus": 0.5, "max_retries": 0},
            "<remote function brew, num_cpus=0.5, max_retries=0>",
        ),
        ({"num_cpus": 1, "max_retries": 3}, "<remote function brew>"),
        ({"resources": {"tea": 1}}, "<remote function brew, resources={'tea': 1}>"),
        ({"name": "evening"}, "<remote function brew, name='evening'>"),
        (
            {"retry_exceptions": [OSError, KeyError]},
            "<remote function brew, retry_exceptions=[OSError, KeyError]>",
        ),
        ({"retry_exceptions": True}, "<remote function brew, retry_exceptions=True>"),
    ],
    ids=str,
)
def test_a_remote_function_shows_what_is_not_usual(options: dict[str, Any], text: str) -> None:
    function: Any = ray.remote(brew)
    assert repr(function.options(**options)) == text


FACTS = {
    "worker_mode": "executor",
    "job_id": "0a",
    "node_id": "n1",
    "task_id": "0b",
    "task_name": "brew",
    "namespace": "",
    "worker_id": "7",
}


def test_a_runtime_context_shows_where_the_caller_is() -> None:
    assert repr(RuntimeContext(FACTS)) == (
        "RuntimeContext(worker_mode='executor', job_id='0a', node_id='n1', task_name='brew', "
        "task_id='0b')"
    )


def test_a_cluster_context_shows_its_facts() -> None:
    context = ClusterContext({"address": "file:///tmp/c", "job_id": "0a"})
    assert repr(context) == "ClusterContext(address='file:///tmp/c', job_id='0a')"


def test_a_cluster_context_is_a_table_in_a_notebook() -> None:
    context = ClusterContext({"address": "file:///a<b>", "job_id": "0a", "namespace": ""})
    html = context._repr_html_()
    assert "job id" in html
    assert "file:///a&lt;b&gt;" in html
    assert "namespace" not in html
