"""An answer to `why`, the same for everything that can be asked about."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`because` are sentences, most important first; `turn` is who can make it go on; `next` a command."""

    what: str
    kind: str
    state: str
    since: str | None
    because: list[str]
    evidence: dict[str, Any] = field(default_factory=dict)
    turn: str
    next: str

    def to_json(self) -> dict[str, Any]:
        """As the faces take it."""
        return asdict(self)
