"""Write the pages that come from tables in the code: `python docs/generate.py`.

A test compares them, so a table cannot change without its page.
"""
# ruff: noqa: INP001, T201 - a command, not a module of a package

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from cloudray.api import options, settings

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent))  # where `tests` is, for this file as a command

from tests.mistakes.page import markdown as errors_page  # noqa: E402

_SETTINGS_BEFORE = """\
# Settings

Whatever `cloudray.init` takes can be said in three places, of which the first that says something
counts:

1. an argument: `cloudray.init(num_cpus=4)`
2. an environment variable: `CLOUDRAY_NUM_CPUS=4 python program.py`
3. your file `~/.config/cloudray.toml`

`cloudray.settings()` shows every value and where it comes from, before `init` and after. This page
is generated from the table in `cloudray/api/settings.py`; a test keeps it current.

"""

_SETTINGS_AFTER = """
## In the environment

```sh
export CLOUDRAY_ADDRESS=s3://bucket/prefix
export CLOUDRAY_PROGRESS=0
export CLOUDRAY_OBJECT_STORE_MEMORY="2 GB"
export CLOUDRAY_RESOURCES='{"licence": 2}'
```

Yes and no are `1`, `true`, `yes`, `on` and `0`, `false`, `no`, `off`. An empty variable counts as
not set. A variable that looks like a misspelt setting causes a warning.

## In the file

```toml
address = "evening"                # the cluster of that name, below
progress = false

[embedded]                         # clusters that init starts on this machine
num_cpus = 4
memory = "8 GB"
resources = { licence = 2 }

[runtime_env]
env_vars = { OMP_NUM_THREADS = "1" }

[timing]                           # clusters that init starts or is the first to join
commit_s = 0.5

[clusters.evening]
address = "s3://bucket/prefix"
```

The file is read by `init` (or the first use), nowhere else. It lies in `$XDG_CONFIG_HOME` where
that is set; `CLOUDRAY_CONFIG` names another file, `CLOUDRAY_CONFIG=/dev/null` stands for none. A
key that is no setting, or a value of a wrong type, is an error that names file and key.

## Clusters with names

`cloudray.init("evening")` and `CLOUDRAY_ADDRESS=evening` mean the `address` under
`[clusters.evening]`. `cloudray.init("local")` starts a cluster on this machine whatever environment
and file say; `"auto"` leaves it to them, as no address does.

What an embedded cluster offers (`num_cpus` and so on) has no meaning where agents offer what they
have: as an argument it is refused together with an address, in environment or file it is ignored.
"""

_OPTIONS = """\
# Options of remote functions

What `@cloudray.remote(...)` and `.options(...)` take, with Ray's names, defaults and errors. This
page is generated from the table in `cloudray/api/options.py`; a test keeps it current.

"""

_OPTIONS_AFTER = """
None stands for the default. Options are given where the function is defined, or for one call:

```python
@cloudray.remote(num_cpus=2, max_retries=0)
def evaluate(row): ...


evaluate.options(name="evening run").remote(row)
```
"""


def settings_page() -> str:
    """`settings.md`."""
    return _SETTINGS_BEFORE + settings.markdown_table() + _SETTINGS_AFTER


def options_page() -> str:
    """`options.md`."""
    return _OPTIONS + options.markdown_table() + _OPTIONS_AFTER


#: The pages that are generated, and from what.
PAGES: tuple[tuple[str, Callable[[], str]], ...] = (
    ("errors.md", errors_page),
    ("options.md", options_page),
    ("settings.md", settings_page),
)


def main() -> None:
    """Write every page that is not what it should be."""
    for name, page in PAGES:
        path, text = DOCS / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
