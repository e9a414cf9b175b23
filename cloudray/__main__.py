"""`python -m cloudray`: the command `cloudray`, for where it is not on the path."""

from __future__ import annotations

import sys

from cloudray.cli import main

if __name__ == "__main__":
    sys.exit(main())
