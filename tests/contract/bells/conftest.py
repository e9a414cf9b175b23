from __future__ import annotations

from tests.unit.agent.conftest import loop, pytest_pyfunc_call

__all__ = ["loop", "pytest_pyfunc_call"]
