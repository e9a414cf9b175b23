"""LocalStack itself, as `start.py` runs it: with the Python of LocalStack's own environment.

The same as `python -m localstack.runtime.main`, but that values lie where TMPDIR says. LocalStack
would put those of all that run on a machine into one folder, which stays.
"""

# ruff: noqa: INP001 - a program

from importlib import import_module
from tempfile import gettempdir

import_module("localstack.services.s3.provider").DEFAULT_S3_TMP_DIR = gettempdir()
import_module("localstack.runtime.main").main()
