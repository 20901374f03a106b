from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.errors import UsageError
from ravan_edge.memory import parse_bytes


@given(st.integers(1, 10**12))
def test_a_bare_number_is_bytes(size: int) -> None:
    assert parse_bytes(str(size)) == size
    assert parse_bytes(f"{size} B") == size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1kB", 1000), ("1KiB", 1024), ("0.5mb", 500_000), ("2 GiB", 2**31), (" 300MB ", 300_000_000)],
)
def test_units(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "0", "-1MB", "1e9", "1 parsec", "1.5.2MB", "nan", "٣MB", "1" * 40, "0.1B"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="300MB") as caught:
        parse_bytes(text)
    assert caught.value.where == "--memory-limit"
