"""The way from name to name: the rules of a protocol and of those it chains to, made one function. Pure.

What hangs on destination and custodial is decided once, when a way is made; chains are followed then, so
that a way knows no protocols when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from catalogs.tfc.dialects import PFN_MAX, Ready, Rewrite, applies, chained, prepare, rewriter
from catalogs.tfc.patterns import Fault
from catalogs.tfc.rules import RULES_MAX, Dialect, Kind, Rule, place
from gridcore.ids import LFN_MAX

CHAIN_MAX = 16  # protocols in a row
STEPS_MAX = 1_000_000_000  # of the regex engine, at worst, for one name and protocol: about a second
#: How many rules the reason for a name without an answer tells of.
TOLD = 5

Table = dict[str, list[Ready]]


@dataclass(frozen=True, slots=True)
class Arm:
    """One rule on a way: `step` makes its name, None where the next rule is to be tried."""

    ready: Ready
    step: Rewrite
    inner: Way | None


@dataclass(frozen=True, slots=True)
class Way:
    """What a protocol makes of names; `longest` is the most characters its names can have.

    `tokens` says whether one of its rules, or of those it chains to, sets a space token.
    """

    protocol: str
    run: Rewrite
    longest: int
    arms: tuple[Arm, ...]
    tokens: bool

    def arm(self, name: str) -> Arm | None:
        """The rule that answers for the name. Raises DeadEnd as `run` does."""
        return next((arm for arm in self.arms if arm.step(name) is not None), None)

    def token(self, name: str) -> str | None:
        """The space token for an LFN: the outermost rule that sets one wins."""
        arm = self.arm(name) if self.tokens else None
        if arm is None or arm.ready.rule.space_token or arm.inner is None:
            return arm.ready.rule.space_token if arm else None
        return arm.inner.token(name)


class Ways:
    """The ways of one direction for one destination and kind of copy; each is made once."""

    def __init__(
        self, kind: Kind, table: Table, dialect: Dialect, destination: str | None, custodial: bool
    ) -> None:
        self._kind: Kind = kind
        self._table, self._dialect = table, dialect
        self._destination, self._custodial = destination, "y" if custodial else "n"
        self._made: dict[str, Way] = {}

    def to(self, protocol: str) -> Way:
        """The way of that protocol; one that leads nowhere where it has no rule."""
        if protocol not in self._made:
            self._made[protocol] = self._make(protocol)
        return self._made[protocol]

    def _applies(self, ready: Ready) -> bool:
        return applies(ready, self._dialect, self._destination, self._custodial)

    def _make(self, protocol: str) -> Way:
        rules = [ready for ready in self._table.get(protocol, ()) if self._applies(ready)]
        made = [self._arm(ready) for ready in rules]
        longest = max((longest for _, longest in made), default=0)
        arms = tuple(arm for arm, _ in made)
        run = _first([arm.step for arm in arms])
        tokens = self._dialect is Dialect.PHEDEX and any(map(_has_token, arms))
        return Way(protocol, self._kept(protocol, run), longest, arms, tokens)

    def _arm(self, ready: Ready) -> tuple[Arm, int]:
        longest, chain = LFN_MAX if self._kind == "lfn-to-pfn" else PFN_MAX, ready.rule.chain
        if chain is None:
            step, longest = rewriter(ready, self._dialect, longest)
            return Arm(ready, step, None), longest
        inner = self.to(chain)
        if self._kind == "lfn-to-pfn":
            longest = inner.longest
        rewrite, longest = rewriter(ready, self._dialect, longest)
        step = chained(self._kind, ready, self._dialect, rewrite, inner.run)
        return Arm(ready, step, inner), longest

    def _kept(self, protocol: str, run: Rewrite) -> Rewrite:
        """Where several rules chain to the protocol, it remembers its last answer: they ask for the same."""
        asked = sum(ready.rule.chain == protocol for rules in self._table.values() for ready in rules)
        return _remembering(run) if asked > 1 else run

    # --- why there is no name ----------------------------------------------------------------------------

    def reasons(self, protocol: str, name: str) -> str:
        """Why no rule of the protocol served that name."""
        rules = self._table.get(protocol)
        if not rules:
            return f"no rule for protocol {protocol!r}, only for {', '.join(sorted(self._table)) or 'none'}"
        told = [f"rule {ready.number} {self._reason(ready, name)}" for ready in rules[:TOLD]]
        more = [f"and {len(rules) - TOLD} more"] if len(rules) > TOLD else []
        return f"protocol {protocol!r}, name {name!r}: {'; '.join(told + more)}"

    def _reason(self, ready: Ready, name: str) -> str:
        rule = ready.rule
        if not self._applies(ready):
            if self._dialect is Dialect.PHEDEX and rule.is_custodial not in (None, self._custodial):
                return f"is for is-custodial={rule.is_custodial}"
            return f"is for destinations like {rule.destination_match!r}"
        if rule.chain is not None and self._goes_on and self.to(rule.chain).run(name) is None:
            return f"chains to {rule.chain!r}, which has no name for it"
        return f"path-match {rule.path_match!r} does not match"

    @property
    def _goes_on(self) -> bool:
        """Whether the next rule is tried where a chain has no name."""
        return self._kind == "lfn-to-pfn" and self._dialect is Dialect.PHEDEX


def _has_token(arm: Arm) -> bool:
    return arm.ready.rule.space_token is not None or (arm.inner is not None and arm.inner.tokens)


def _first(steps: Sequence[Rewrite]) -> Rewrite:
    if len(steps) == 1:
        return steps[0]

    def first(name: str) -> str | None:
        for step in steps:
            text = step(name)
            if text is not None:
                return text
        return None

    return first


def _remembering(run: Rewrite) -> Rewrite:
    last: tuple[str | None, str | None] = (None, None)

    def remembering(name: str) -> str | None:
        nonlocal last
        asked, text = last  # read and written whole, so threads cannot mix two answers
        if asked != name:
            text = run(name)
            last = (name, text)
        return text

    return remembering


# --- rules made ready --------------------------------------------------------------------------------


def compiled(kind: Kind, rules: Sequence[Rule], dialect: Dialect, source: str) -> tuple[Table, list[Fault]]:
    """The rules ready to run, by protocol, and every fault that forbids to run them."""
    table: Table = {}
    faults: list[Fault] = []
    spent: dict[str, int] = {}
    if len(rules) > RULES_MAX:
        return table, [Fault(f"{len(rules)} rules", f"at most {RULES_MAX}", kind)]
    for number, rule in enumerate(rules, 1):
        where = place(kind, number, rule)
        try:
            ready, steps = prepare(number, f"{source}: {where}", rule, dialect)
            spent[rule.protocol] = spent.get(rule.protocol, 0) + steps
            if spent[rule.protocol] > STEPS_MAX:
                raise Fault("may take too long to match", "fewer wildcards, '[^/]+' for '.*', '^' in front")
            table.setdefault(rule.protocol, []).append(ready)
        except Fault as fault:
            faults.append(Fault(fault.what, fault.cure, where))
    return table, faults + list(_chain_faults(kind, rules))


def _chain_faults(kind: Kind, rules: Sequence[Rule]) -> list[Fault]:
    chains: dict[str, list[str]] = {}
    for rule in rules:
        if rule.chain is not None:
            chains.setdefault(rule.protocol, []).append(rule.chain)
    depth: dict[str, int] = {}
    try:
        for protocol in TopologicalSorter(chains).static_order():
            depth[protocol] = 1 + max((depth[chain] for chain in chains.get(protocol, ())), default=0)
    except CycleError as loop:
        path = loop.args[1][::-1]
        more = " -> ..." if len(path) > 6 else ""
        what, link = f"chain loop {' -> '.join(path[:6])}{more}", tuple(path[:2])
    else:
        deepest = max(depth, key=lambda protocol: depth[protocol], default="")
        if depth.get(deepest, 0) <= CHAIN_MAX:
            return []
        what, link = f"chain of {depth[deepest]} protocols", (deepest, chains[deepest][0])
    number, rule = next((n, r) for n, r in enumerate(rules, 1) if (r.protocol, r.chain) == link)
    cure = f"drop a chain: at most {CHAIN_MAX} in a row and no loop"
    return [Fault(what, cure, place(kind, number, rule))]
