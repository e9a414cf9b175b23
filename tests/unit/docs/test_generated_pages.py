"""Pages that come from tables in the code say what the tables say."""

from __future__ import annotations

from pathlib import Path

from cloudray.api.options import markdown_table

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_of_options_is_the_table_in_the_code() -> None:
    page = (DOCS / "options.md").read_text(encoding="utf-8")
    assert markdown_table().strip() in page
