"""Amounts as people read them."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(n: float) -> str:
    """Bytes to three digits: `12.3 MB`, `-3 GB`."""
    for unit in _UNITS:
        if abs(n) < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} PB" if abs(n) < 999.5 else f"{n:,.0f} PB"
