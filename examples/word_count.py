"""Count the words of many texts: a task for each file, then a tree of tasks that add up.

    python examples/word_count.py                               # this project and Python itself
    python examples/word_count.py ~/notes 'book-*.txt'
    python examples/word_count.py 's3://bucket/logs/*.txt'      # any fsspec URL: pip install s3fs

A file is read by the task that counts it, so no text passes through this process. Paths without
a scheme are read from the local disk: a cluster of several machines needs URLs.
"""

from __future__ import annotations

import argparse
import glob
import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.table import Table

import cloudray as ray

#: How many counts one task of the tree adds up.
FAN_IN = 8
SUFFIXES = {".md", ".py", ".rst", ".txt"}
WORD = re.compile(r"[^\W\d_]+")


def open_text(url: str) -> IO[str]:
    """Open a local path, or whatever fsspec can open; undecodable bytes are replaced."""
    if "://" not in url:
        return Path(url).open(encoding="utf-8", errors="replace")
    import fsspec

    stream: IO[str] = fsspec.open(url, "rt", encoding="utf-8", errors="replace").open()
    return stream


@ray.remote
def count_words(url: str) -> Counter[str]:
    """Count the words of one file, in lower case."""
    counts: Counter[str] = Counter()
    with open_text(url) as lines:
        for line in lines:
            counts.update(word.lower() for word in WORD.findall(line))
    return counts


@ray.remote
def add(*counts: Counter[str]) -> Counter[str]:
    """Add up some counts."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def word_count(urls: list[str]) -> Counter[str]:
    """Count the words of all files: the whole tree is submitted before anything is waited for."""
    counts = [count_words.remote(url) for url in urls]
    while len(counts) > 1:
        counts = [
            add.remote(*counts[start : start + FAN_IN]) for start in range(0, len(counts), FAN_IN)
        ]
    return ray.get(counts[0])


def find_texts(patterns: list[str]) -> list[str]:
    """Every file that the patterns name: folders are searched, `*` and `**` expanded."""
    found: set[str] = set()
    for pattern in patterns:
        if "://" in pattern:
            import fsspec

            files = fsspec.open_files(pattern, "rb")
            found.update(files.fs.unstrip_protocol(file.path) for file in files)
            continue
        # Path.glob takes no absolute pattern.
        for name in glob.glob(str(Path(pattern).expanduser()), recursive=True):  # noqa: PTH207
            path = Path(name).resolve()
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            found.update(
                str(file)
                for file in inside
                if file.is_file() and (file == path or file.suffix in SUFFIXES)
            )
    return sorted(found)


def default_patterns() -> list[str]:
    """Name this project's documents and sources, and Python's standard library."""
    root = Path(__file__).resolve().parents[1]
    folders = ("cloudray", "docs", "examples", "tests")
    here = [str(root / "*.md"), *(str(root / folder) for folder in folders)]
    return [*here, str(Path(sysconfig.get_path("stdlib"), "*.py"))]


def main() -> None:
    """Count, and print the most frequent words."""
    arguments = parse_arguments()
    urls = find_texts(arguments.texts or default_patterns())
    if not urls:
        message = f"no text found in: {' '.join(arguments.texts)}"
        raise SystemExit(message)

    ray.init(address=arguments.address)
    counts = word_count(urls)
    ray.shutdown()

    console = Console()
    console.print(f"{counts.total():,} words, {len(counts):,} distinct, in {len(urls):,} files")
    table = Table()
    table.add_column("word")
    table.add_column("times", justify="right")
    for word, times in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[
        : arguments.top
    ]:
        table.add_row(word, f"{times:,}")
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "texts",
        nargs="*",
        help="files, folders, patterns or fsspec URLs (default: this project and Python itself)",
    )
    parser.add_argument(
        "--top", type=int, default=10, help="how many words to print (default: %(default)s)"
    )
    parser.add_argument(
        "--address", help="where the cluster lies, e.g. file:///dir (default: this machine)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
