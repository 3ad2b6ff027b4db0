"""Metadata: what an owner may say of a dataset, a number where it is one, else a text. Pure."""

from __future__ import annotations

from catalogs.finding import FIELDS
from gridcore.errors import UsageError
from gridcore.selectors import FREE_NAME, KEYWORDS, REAL

TEXT_MAX = 200
DESCRIPTION_MAX = 1000

Value = float | str
"""What is said: (num, None) or (None, txt) in the table."""


def check_name(name: str) -> str:
    """The name, if a query can ask for it. Raises UsageError."""
    if name in FIELDS or name == "description":
        raise UsageError(
            f"{name!r} is no name for metadata: every dataset has it of its own",
            hint="choose another; `tierflow dataset fields` lists those taken",
        )
    if not FREE_NAME.fullmatch(name) or name in KEYWORDS:
        raise UsageError(
            f"{name!r} is no name for metadata",
            hint="a small letter, then small letters, digits, '_', '.' and '-', at most 40: collision=AuAu",
        )
    return name


def typed(text: str) -> tuple[float | None, str | None]:
    """(number, None) where the text is one as a query reads it, else (None, text). Raises UsageError."""
    check_text(text, "metadata", TEXT_MAX)
    if not REAL.fullmatch(text):
        return None, text
    number = float(text)
    if abs(number) == float("inf"):
        raise UsageError(f"{text!r} is too large a number", hint="numbers are below 1.8e308")
    return number, None


def check_text(text: str, what: str, most: int) -> str:
    """The text, if it is neither empty nor too long, on one line and without blanks around it.

    Raises UsageError.
    """
    if not 0 < len(text) <= most:
        raise UsageError(f"{what} of {len(text)} characters", hint=f"it has 1 to {most}")
    if not text.isprintable() or text != text.strip():
        raise UsageError(f"{what} {text!r} cannot be read on one line", hint="leave out what is not printed")
    return text
