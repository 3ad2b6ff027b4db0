"""Values as JSON has them, and names that were nearly right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, TypeVar

from gridcore.errors import NotFound, UsageError

S = TypeVar("S", bound=StrEnum)
#: Rows a list holds unless asked for another number.
LIMIT = 100
#: The largest key there can be.
KEY_MAX = 2**63 - 1


def iso(moment: datetime | None) -> str | None:
    """`2026-03-01T12:00:00.250Z`; None stays None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """The value with moments as ISO text, enums as their values, and the same within lists and dicts.

    Sums of large integers, which PostgreSQL gives as decimals, are integers.
    """
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Decimal):
        return int(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def record(row: Any, *names: str) -> dict[str, Any]:
    """These columns of a database row, or these fields of a dataclass, as JSON has them."""
    return {name: plain(getattr(row, name)) for name in names}


def state_of(kind: type[S], text: str | None) -> list[S]:
    """The one state of that name, in any case, or all of them. Raises UsageError naming them."""
    if text is None:
        return list(kind)
    try:
        return [kind(text.upper())]
    except ValueError:
        names = ", ".join(one.value for one in kind)
        raise UsageError(f"there is no state {text!r}", hint=f"states: {names}") from None


def not_found(what: str, name: str, known: Iterable[str], see: str) -> NotFound:
    """The error for a name nobody knows; its hint quotes the nearest names, or the command to `see`."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"see: {see}"
    return NotFound(f"there is no {what} {name}", hint=hint)


def ago(moment: datetime, now: datetime) -> str:
    """How long that is from now, either way: `12 s`, `5 min`, `3.2 h`, `4 days`."""
    return span(abs((now - moment).total_seconds()))


def span(seconds: float) -> str:
    """A length of time to be read: `0.5 s`, `12 s`, `5 min`, `3.2 h`, `4 days`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    length = timedelta(seconds=seconds)
    if length < timedelta(hours=2):
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if length < timedelta(days=2) else f"{seconds / 86400:.0f} days"


def some(n: int, noun: str) -> str:
    """`1 job`, `12 jobs`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
