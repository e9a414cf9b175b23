"""docs/benchmarks.md has two parts, each written by a run of its own; neither removes the other."""

from __future__ import annotations

from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
#: With this the second part begins.
ON_STORAGE = "## On object storage"


def write_local(text: str, document: Path = DOCUMENT) -> None:
    """Write the first part: this machine alone, beside Ray."""
    _, heading, rest = _read(document).partition(ON_STORAGE)
    document.write_text(_joined(text, heading + rest), encoding="utf-8")


def write_on_storage(text: str, document: Path = DOCUMENT) -> None:
    """Write the second part, which begins with its heading: beside others on one S3."""
    if not text.startswith(ON_STORAGE):
        raise ValueError(f"the part on object storage does not begin with {ON_STORAGE!r}")
    document.write_text(_joined(_read(document).partition(ON_STORAGE)[0], text), encoding="utf-8")


def _read(document: Path) -> str:
    return document.read_text(encoding="utf-8") if document.exists() else ""


def _joined(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
