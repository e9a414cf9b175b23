"""The names of `cloudray`: all there, and none hidden by a module of the same name."""

from __future__ import annotations

import importlib
import types
from pathlib import Path

import pytest

import cloudray

PACKAGE = Path(cloudray.__file__).parent


@pytest.mark.parametrize("name", cloudray.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(cloudray, name) is not None
    assert name in dir(cloudray)


@pytest.mark.parametrize("name", sorted(set(cloudray.__all__) - {"exceptions"}))
def test_a_public_name_is_no_module(name: str) -> None:
    # Importing such a module would put it where the function was.
    assert not PACKAGE.joinpath(f"{name}.py").exists()
    assert not PACKAGE.joinpath(name).exists()


def test_settings_is_a_function_whatever_has_been_imported() -> None:
    importlib.import_module("cloudray.api.settings")
    assert isinstance(cloudray.settings, types.FunctionType)


def test_a_name_that_does_not_exist_is_told() -> None:
    with pytest.raises(AttributeError, match="module 'cloudray' has no attribute 'colour'"):
        _ = cloudray.colour
