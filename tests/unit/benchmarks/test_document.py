from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.document import ON_STORAGE, write_local, write_on_storage


@pytest.fixture
def document(tmp_path: Path) -> Path:
    return tmp_path / "benchmarks.md"


def test_neither_part_removes_the_other(document: Path) -> None:
    write_local("# Benchmarks\n\nfirst\n", document)
    write_on_storage(f"{ON_STORAGE}\n\nsecond\n", document)
    write_local("# Benchmarks\n\nfirst again\n", document)
    assert document.read_text() == f"# Benchmarks\n\nfirst again\n\n{ON_STORAGE}\n\nsecond\n"
    write_on_storage(f"{ON_STORAGE}\n\nsecond again\n", document)
    assert document.read_text() == f"# Benchmarks\n\nfirst again\n\n{ON_STORAGE}\n\nsecond again\n"


def test_the_second_part_may_come_first(document: Path) -> None:
    write_on_storage(f"{ON_STORAGE}\n\nsecond\n", document)
    write_local("# Benchmarks", document)
    assert document.read_text() == f"# Benchmarks\n\n{ON_STORAGE}\n\nsecond\n"


def test_a_part_that_could_not_be_found_again_is_not_written(document: Path) -> None:
    with pytest.raises(ValueError, match="does not begin with"):
        write_on_storage("second", document)
    assert not document.exists()
