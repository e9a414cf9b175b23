"""Files that tasks and tests wait for: what must happen first has happened, however slow."""

from __future__ import annotations

import time
from pathlib import Path

#: Far longer than anything here takes; what never happens fails.
LIMIT_S = 60.0


def wait_for(*files: Path) -> None:
    """Wait until all of these files exist."""
    deadline_s = time.monotonic() + LIMIT_S
    while not all(file.exists() for file in files):
        if time.monotonic() > deadline_s:
            missing = [file.name for file in files if not file.exists()]
            raise TimeoutError(f"nobody made {missing}")
        time.sleep(0.002)


def meet(folder: Path, name: str, *others: str) -> None:
    """Wait until these are here too: only what runs at the same time can meet."""
    folder.joinpath(name).touch()
    wait_for(*(folder / other for other in others))


def count(file: Path) -> int:
    """Add one to the number of times this was called for a file; returns it."""
    with file.open("a") as opened:
        opened.write("x")
    return file.stat().st_size
