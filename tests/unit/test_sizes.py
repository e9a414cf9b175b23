from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1000 B", 1000),
        ("1 kB", 1000),
        ("500 MB", 500_000_000),
        ("500M", 500_000_000),
        ("2 GB", 2_000_000_000),
        ("2gb", 2_000_000_000),
        ("1.5 GB", 1_500_000_000),
        ("1. GB", 1_000_000_000),
        (".5 kB", 500),
        ("512MiB", 512 << 20),
        ("512 Mi", 512 << 20),
        ("1.5 GiB", 3 << 29),
        ("1 TB", 10**12),
        ("1 PiB", 1 << 50),
        (" 2 GB ", 2_000_000_000),
        ("1.0001 KB", 1001),
    ],
)
def test_a_size_is_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB",
        "-1 GB",
        "2 apples",
        "2 GB 3",
        "1e9",
        "nan",
        "inf",
        "1,5 GB",
        "2 bytes",
        "0x10",
        "²",
    ],
)
def test_what_is_no_size_is_answered_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no size: write a number of bytes, or .* '2 GB'"):
        parse_size(text)


@given(st.integers(min_value=0))
def test_a_number_of_bytes_is_itself(size_bytes: int) -> None:
    assert parse_size(str(size_bytes)) == size_bytes


@given(st.decimals(min_value=0, max_value=10**6, places=6))
def test_a_fraction_is_rounded_up(number: object) -> None:
    text = f"{number:f}"
    whole = int(text.partition(".")[0])
    found = parse_size(f"{text} KB")
    assert whole * 1000 <= found <= (whole + 1) * 1000
    assert found - 1 < float(text) * 1000 + 1e-3
