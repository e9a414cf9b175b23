"""What the README shows is so."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.integration.programs import ROOT, run_program

README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def test_the_code_in_the_readme_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (promised,) = re.findall(r"print\(.*# (\d+)", code)
    program = tmp_path / "readme.py"
    program.write_text(code)
    assert run_program([sys.executable, program]) == f"{promised}\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []
