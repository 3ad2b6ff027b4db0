"""State machines as tables: states are StrEnums, a move is one line, the diagram is drawn from the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from gridcore.errors import InvalidTransition

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Rule(Generic[S, E]):
    """One line of a transition table: from any of `sources`, `event` may lead to any of `targets`."""

    sources: frozenset[S]
    event: E
    targets: frozenset[S]
    guard: str = ""


def rule(sources: S | Iterable[S], event: E, targets: S | Iterable[S], guard: str = "") -> Rule[S, E]:
    """A Rule from single states or several."""
    return Rule(_as_set(sources), event, _as_set(targets), guard)


def _as_set(states: S | Iterable[S]) -> frozenset[S]:
    return frozenset([states] if isinstance(states, StrEnum) else states)


class StateMachine(Generic[S, E]):
    """A table of rules and the questions one asks of it.

    An event has exactly one rule per source state; where a rule has several targets, the caller's pure
    decision picks one and `check` confirms it.
    """

    def __init__(self, name: str, rules: Iterable[Rule[S, E]], *, final: Iterable[S]) -> None:
        self.name = name
        self.rules = tuple(rules)
        self.final = frozenset(final)
        self._targets: dict[tuple[S, E], frozenset[S]] = {}
        for line in self.rules:
            for source in line.sources:
                if (source, line.event) in self._targets:
                    raise ValueError(f"{name}: two rules for {source} on {line.event}")
                if source in self.final:
                    raise ValueError(f"{name}: {source} is final, yet {line.event} leaves it")
                self._targets[source, line.event] = line.targets

    def sources(self, event: E, target: S | None = None) -> frozenset[S]:
        """The states in which `event` is known, or from which it may lead to `target`."""
        return frozenset(
            source
            for (source, known), targets in self._targets.items()
            if known == event and (target is None or target in targets)
        )

    def next(self, state: S, event: E) -> S:
        """The state after the event. Raises InvalidTransition; ValueError where a decision is needed."""
        targets = self._targets.get((state, event))
        if targets is None:
            raise InvalidTransition(f"a {self.name} in state {state} does not know {event}")
        if len(targets) > 1:
            raise ValueError(f"{self.name}: {event} from {state} leads to one of {sorted(targets)}")
        return next(iter(targets))

    def knows(self, state: S, event: E, target: S) -> bool:
        """Whether the table has this move."""
        return target in self._targets.get((state, event), ())

    def check(self, state: S, event: E, target: S) -> S:
        """The target, if the table has this move. Raises InvalidTransition."""
        if not self.knows(state, event, target):
            raise InvalidTransition(f"a {self.name} does not go from {state} to {target} on {event}")
        return target

    def edges(self) -> set[tuple[S, S]]:
        """All (from, to) pairs of the table."""
        return {(source, target) for (source, _), targets in self._targets.items() for target in targets}

    def to_mermaid(self) -> str:
        """The diagram, one labelled edge per move, in the table's order."""
        lines = ["stateDiagram-v2"]
        for line in self.rules:
            for source in sorted(line.sources):
                lines += [f"    {source} --> {target}: {line.event}" for target in sorted(line.targets)]
        lines += [f"    {state} --> [*]" for state in sorted(self.final)]
        return "\n".join(lines)
