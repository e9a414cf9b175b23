"""The examples run, and what they print is true."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.integration.programs import ROOT, run_program

EXAMPLES = ROOT / "examples"
#: The sum of the primes below 10,000.
SUM_BELOW_10_000 = "5,736,396"


def run_example(name: str, *arguments: str | Path) -> str:
    return run_program([sys.executable, EXAMPLES / name, *arguments])


def read_notebook() -> nbformat.NotebookNode:
    text = EXAMPLES.joinpath("sum_primes.ipynb").read_text(encoding="utf-8")
    notebook: nbformat.NotebookNode = nbformat.v4.reads_json(text)
    return notebook


def test_sum_primes_agrees_with_itself_and_the_books() -> None:
    printed = run_example("sum_primes.py", "--limit", "10_000", "--repeat", "3")
    assert "3 x sum of the primes below 10,000" in printed
    assert printed.count(SUM_BELOW_10_000) == 2
    assert re.search(r"speed-up .* same results", printed)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A cluster in a directory, with an agent."""
    url = tmp_path.joinpath("cluster").as_uri()
    with subprocess.Popen([sys.executable, "-m", "cloudray", "worker", url], cwd=ROOT) as agent:
        yield url
        agent.terminate()
        try:
            assert agent.wait(timeout=30) == 0
        finally:
            agent.kill()


def test_sum_primes_runs_at_an_address(address: str) -> None:
    printed = run_example("sum_primes.py", "--limit", "10_000", "--address", address)
    assert "same results" in printed


def test_word_count_counts_every_file(tmp_path: Path) -> None:
    # Enough files for a tree of three levels.
    for number in range(70):
        text = "The bucket is the truth.\nA bucket, a bell; a bucket!\n"
        tmp_path.joinpath(f"{number}.txt").write_text(text)
    tmp_path.joinpath("ignored.bin").write_text("bucket")
    printed = run_example("word_count.py", "--top", "3", tmp_path)
    assert "770 words, 6 distinct, in 70 files" in printed
    assert re.findall(r"│ (\w+) +│ +(\d+) │", printed) == [
        ("a", "210"),
        ("bucket", "210"),
        ("the", "140"),
    ]


def test_word_count_says_when_there_is_nothing_to_count(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"no text found in: .*/absent"):
        run_example("word_count.py", tmp_path / "absent")


def test_divide_and_conquer_sort_sorts_with_nested_tasks() -> None:
    printed = run_example("divide_and_conquer_sort.py", "--size", "3_000", "--leaf", "250")
    assert "Sorted 3,000 numbers with 31 tasks" in printed


def test_the_notebook_runs_from_top_to_bottom() -> None:
    notebook = read_notebook()
    (parameters,) = (cell for cell in notebook.cells if cell.id == "parameters")
    parameters.source = "LIMIT = 10_000\nREPEAT = 3"
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(ROOT)}}).execute()
    (compare,) = (cell for cell in notebook.cells if cell.id == "compare")
    assert (
        compare.outputs[0].text
        == f"parallel == sequential = True, each sum is {SUM_BELOW_10_000}\n"
    )


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = read_notebook()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
