"""Texts of strangers, as every database takes them."""

from __future__ import annotations


def plain(text: str, most: int) -> str:
    """The first `most` characters, without NUL and halves of characters."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")[:most]
