from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray.protocol.demand import (
    GIB,
    UNIT,
    Demand,
    amount,
    class_of,
    fits,
    from_units,
    is_exact,
    may_host,
    python_tag,
    to_units,
)

AMOUNTS = st.integers(0, 70 * UNIT)
DEMANDS = st.dictionaries(st.sampled_from(["CPU", "GPU", "accelerator"]), AMOUNTS).flatmap(
    lambda demand: st.integers(0, 70).map(
        lambda gib: {**demand, **({"memory": gib * GIB * UNIT // 3} if gib else {})}
    )
)


@given(st.integers(0, 10**9))
def test_units_survive_the_way_there_and_back(units: int) -> None:
    assert to_units(from_units(units)) == units


def test_a_tenth_of_a_resource_is_exact() -> None:
    assert 3 * to_units(0.1) == to_units(0.3)


@pytest.mark.parametrize(
    ("demand", "klass"),
    [
        ({}, "py311-cpu0-m0"),
        ({"CPU": UNIT}, "py311-cpu1-m0"),
        ({"CPU": UNIT // 2}, "py311-cpu1-m0"),
        ({"CPU": UNIT + 1}, "py311-cpu2-m0"),
        ({"CPU": 3 * UNIT, "memory": 3 * GIB * UNIT}, "py311-cpu4-m4"),
        ({"memory": 1}, "py311-cpu0-m1"),
        ({"CPU": UNIT, "GPU": 5000}, "py311-cpu1-m0-gpu1"),
        ({"CPU": UNIT, "GPU": 0}, "py311-cpu1-m0"),
    ],
)
def test_a_class_rounds_each_demand_up_to_a_power_of_two(demand: Demand, klass: str) -> None:
    assert class_of(demand, "py311") == klass


def test_a_class_is_of_this_python_unless_told_otherwise() -> None:
    assert class_of({}).startswith(python_tag() + "-")


def test_a_class_names_custom_resources_whatever_their_order_and_amount() -> None:
    one = class_of({"a": 1, "b": 2})
    assert one == class_of({"b": 7, "a": 9})
    assert one != class_of({"a": 1})
    assert re.fullmatch(r"py\d+-cpu0-m0-x[0-9a-f]{8}", one)


def test_classes_with_different_custom_resources_differ() -> None:
    assert class_of({"ab": 1}) != class_of({"a": 1, "b": 1})


@given(DEMANDS, DEMANDS)
def test_an_agent_that_fits_a_demand_may_host_its_class(demand: Demand, total: Demand) -> None:
    if fits(demand, total):
        assert may_host(class_of(demand), total)


@given(DEMANDS, DEMANDS)
def test_a_class_that_is_exact_has_only_demands_that_fit(demand: Demand, total: Demand) -> None:
    if is_exact(class_of(demand), total):
        assert fits(demand, total)


def test_an_agent_is_not_asked_to_host_what_is_surely_too_large() -> None:
    assert not may_host(class_of({"CPU": 3 * UNIT}), {"CPU": 2 * UNIT})


def test_an_agent_without_a_gpu_hosts_no_class_with_one() -> None:
    assert not may_host(class_of({"GPU": 1}), {"CPU": 64 * UNIT})


def test_a_demand_rounded_up_may_still_fit() -> None:
    klass = class_of({"CPU": 3 * UNIT})
    assert may_host(klass, {"CPU": 3 * UNIT})
    assert not is_exact(klass, {"CPU": 3 * UNIT})


def test_a_class_with_custom_resources_is_never_exact() -> None:
    assert not is_exact(class_of({"a": 1}), {"a": 1})


@pytest.mark.parametrize("klass", ["", "gpu", "py311-cpu1", python_tag() + "-cpu1-m0 "])
def test_nobody_hosts_a_class_that_is_none(klass: str) -> None:
    assert not may_host(klass, {"CPU": 64 * UNIT})
    assert not is_exact(klass, {"CPU": 64 * UNIT})


def test_nobody_hosts_a_class_of_another_python() -> None:
    assert not may_host(class_of({}, "py27"), {"CPU": 64 * UNIT})


def test_a_demand_fits_what_has_exactly_as_much() -> None:
    assert fits({"CPU": 5, "a": 1}, {"CPU": 5, "a": 1, "b": 9})
    assert not fits({"CPU": 6}, {"CPU": 5})
    assert not fits({"a": 1}, {"CPU": 5})


def test_a_demand_of_nothing_fits_anywhere() -> None:
    assert fits({"a": 0}, {})


@pytest.mark.parametrize(
    ("name", "units", "text"),
    [
        ("CPU", 10_000, "1 CPU"),
        ("CPU", 5_000, "0.5 CPUs"),
        ("GPU", 80_000, "8 GPUs"),
        ("memory", 10_000 * 512_000_000, "512.0 MB memory"),
        ("tea", 25_000, "2.5 tea"),
    ],
)
def test_an_amount_in_words(name: str, units: int, text: str) -> None:
    assert amount(name, units) == text
