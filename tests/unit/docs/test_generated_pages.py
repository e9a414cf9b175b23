"""Pages that come from tables in the code say what the tables say."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudray.api import userfile
from cloudray.api.sources import resolve
from docs.generate import DOCS, PAGES, settings_page


@pytest.mark.parametrize(("name", "page"), PAGES)
def test_a_page_is_what_the_table_in_the_code_makes_it(name: str, page: Callable[[], str]) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == page(), "run: python docs/generate.py"


@pytest.mark.parametrize(("name", "page"), PAGES)
def test_the_rows_of_a_page_have_as_many_cells_as_its_head(
    name: str, page: Callable[[], str]
) -> None:
    rows = [line for line in page().splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert rows, name
    assert len(set(cells)) == 1


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", settings_page(), re.DOTALL)


def test_the_file_that_the_page_of_settings_shows_is_one(tmp_path: Path) -> None:
    path = tmp_path / "cloudray.toml"
    (shown,) = blocks("toml")
    path.write_text(shown, encoding="utf-8")
    file = userfile.read({userfile.VARIABLE: str(path)})
    assert file.values.keys() == {
        "address", "progress", "num_cpus", "memory", "resources", "env_vars", "commit_s"
    }  # fmt: skip
    assert len(tomllib.loads(shown)) == 6


def test_the_environment_that_the_page_of_settings_shows_is_one() -> None:
    (shown,) = blocks("sh")
    exported = dict(re.findall(r"^export (\w+)=[\"']?(.*?)[\"']?$", shown, re.MULTILINE))
    assert len(exported) == 4
    resolved = resolve({}, {userfile.VARIABLE: os.devnull, **exported})
    assert resolved.configuration.progress is False
    assert resolved.configuration.address == "s3://bucket/prefix"
