"""Amounts are written with three digits and the unit that fits."""

from __future__ import annotations

import pytest

from gridcore.amounts import size


@pytest.mark.parametrize(
    ("n", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (315_000, "315 kB"), (2.5e9, "2.5 GB"), (-3_000, "-3 kB")),
        *((999_600, "1 MB"), (999_499, "999 kB"), (999.6e15, "1,000 PB"), (1e18, "1,000 PB")),
    ],
)
def test_sizes(n: float, text: str) -> None:
    assert size(n) == text
