"""Policies: which rule decides where a request runs, and why. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gridcore.errors import UsageError

#: What a rule may ask for, and whom it may name.
CONDITIONS = ("groups", "requesters", "names", "min_priority", "max_priority")
TARGETS = ("agents", "sites", "site_sets")
#: The code of a choice that somebody made by naming where.
BY_HAND = "BY_HAND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What of a request the rules look at."""

    group: str
    requester: str
    name: str
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A policy: None asks for nothing, no target is everywhere. `names` are patterns such as `mc-*`."""

    policy: str
    rank: int
    groups: frozenset[str] | None = None
    requesters: frozenset[str] | None = None
    names: tuple[str, ...] | None = None
    min_priority: int | None = None
    max_priority: int | None = None
    agents: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    site_sets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Who there is to be named: the sites of each ProdAgent and site set, and all sites."""

    agents: Mapping[str, Collection[str]]
    site_sets: Mapping[str, Collection[str]]
    sites: Collection[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where a request runs: `sites` None is everywhere. `code` and `params` say who decided so."""

    code: str
    params: Mapping[str, Any]
    agents: tuple[str, ...] = ()
    sites: frozenset[str] | None = None


def rule_of(policy: str, rank: int, rule: Mapping[str, Any]) -> Rule:
    """The Rule of a stored or written document. Raises UsageError with the key and the cure."""
    unknown = sorted(set(rule) - {*CONDITIONS, *TARGETS})
    if unknown:
        raise UsageError(
            f"policy {policy!r}: there is no key {unknown[0]!r}",
            hint=f"keys: {', '.join((*CONDITIONS, *TARGETS))}",
        )
    low, high = (_number(policy, rule, key) for key in ("min_priority", "max_priority"))
    if low is not None and high is not None and low > high:
        raise UsageError(
            f"policy {policy!r}: min_priority {low} is above max_priority {high}", hint="swap them"
        )
    lists = {key: _names(policy, rule, key) for key in ("groups", "requesters", "names", *TARGETS)}
    return Rule(
        policy=policy,
        rank=rank,
        groups=None if lists["groups"] is None else frozenset(lists["groups"]),
        requesters=None if lists["requesters"] is None else frozenset(lists["requesters"]),
        names=lists["names"],
        min_priority=low,
        max_priority=high,
        agents=lists["agents"] or (),
        sites=lists["sites"] or (),
        site_sets=lists["site_sets"] or (),
    )


def _number(policy: str, rule: Mapping[str, Any], key: str) -> int | None:
    value = rule.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise UsageError(
            f"policy {policy!r}: {key} is {value!r}", hint="give a whole number, or leave it out"
        )
    return value


def _names(policy: str, rule: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = rule.get(key)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one for one in value):
        raise UsageError(
            f"policy {policy!r}: {key} is {value!r}", hint="give a list of names, or leave it out"
        )
    if not value and key not in TARGETS:
        raise UsageError(f"policy {policy!r}: {key} is empty: it fits nothing", hint="leave it out for any")
    return tuple(value)


def fits(rule: Rule, facts: Facts) -> bool:
    """Whether the rule speaks of such a request."""
    return (
        (rule.groups is None or facts.group in rule.groups)
        and (rule.requesters is None or facts.requester in rule.requesters)
        and (rule.names is None or any(fnmatchcase(facts.name, one) for one in rule.names))
        and (rule.min_priority is None or facts.priority >= rule.min_priority)
        and (rule.max_priority is None or facts.priority <= rule.max_priority)
    )


def first(rules: Iterable[Rule], facts: Facts) -> Rule | None:
    """The deciding rule: of those that fit the one of the lowest rank, of equals by name."""
    fitting = (rule for rule in rules if fits(rule, facts))
    return min(fitting, key=lambda rule: (rule.rank, rule.policy), default=None)


def decide(rules: Iterable[Rule], facts: Facts, known: Targets) -> Choice:
    """Where the first rule that fits sends the request; everywhere if none fits. Raises UsageError."""
    rule = first(rules, facts)
    if rule is None:
        return Choice(code="NO_POLICY", params={})
    return choice(
        "POLICY",
        {"policy": rule.policy},
        known,
        agents=rule.agents,
        sites=rule.sites,
        site_sets=rule.site_sets,
    )


def choice(
    code: str,
    params: Mapping[str, Any],
    known: Targets,
    *,
    agents: Iterable[str] = (),
    sites: Iterable[str] = (),
    site_sets: Iterable[str] = (),
) -> Choice:
    """All the sites named, of themselves, by agents and by site sets; everywhere if nothing is named.

    Raises UsageError for a name that nobody has, and where agents and sets together have no site.
    """
    names = {
        "agents": tuple(sorted(set(agents))),
        "sites": tuple(sorted(set(sites))),
        "site_sets": tuple(sorted(set(site_sets))),
    }
    teller = f"policy {params['policy']!r}" if "policy" in params else "the assignment"
    _check(teller, "ProdAgent", names["agents"], known.agents)
    _check(teller, "site", names["sites"], known.sites)
    _check(teller, "site set", names["site_sets"], known.site_sets)
    told = {**params, **{key: list(value) for key, value in names.items() if value}}
    if not any(names.values()):
        return Choice(code=code, params=told)
    found = frozenset(names["sites"]).union(
        *(known.agents[one] for one in names["agents"]),
        *(known.site_sets[one] for one in names["site_sets"]),
    )
    if not found:
        raise UsageError(
            f"{teller} names {_told(names)}, which have no site",
            hint="give the agents endpoints or the sets sites, or approve with --site",
        )
    return Choice(code=code, params=told, agents=names["agents"], sites=found)


def _check(teller: str, what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(
                f"{teller} names the {what} {name!r}, which does not exist",
                hint=f"there are: {', '.join(sorted(known)) or 'none'}",
            )


def _told(names: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {', '.join(value)}" for key, value in names.items() if value)


def sites_left(
    choice: Choice, step: str, allowed: Collection[str] | None, excluded: Collection[str]
) -> list[str] | None:
    """The sites a step may run at, None for all. Raises UsageError where there is none."""
    if choice.sites is None:
        return None if allowed is None else sorted(allowed)
    kept = sorted(one for one in choice.sites if (allowed is None or one in allowed) and one not in excluded)
    if not kept:
        asked = f"it asks for {', '.join(sorted(allowed))}" if allowed is not None else "it excludes them"
        raise UsageError(
            f"step {step!r} may run at none of the assigned sites: {sentence(choice.code, choice.params)}, "
            f"which is {', '.join(sorted(choice.sites))}",
            hint=f"{asked}: change the policy, or approve it with --site SITE",
        )
    return kept


def sentence(code: str | None, params: Mapping[str, Any] | None) -> str:
    """Why a request runs where it does, from what is stored on it."""
    facts = params or {}
    targets = {key: facts[key] for key in TARGETS if facts.get(key)}
    where = _told(targets) or "every site"
    if code == BY_HAND:
        return f"{facts.get('by', 'an operator')} assigned it to {where}"
    match code:
        case "POLICY":
            return f"policy {facts.get('policy')} assigns it to {where}"
        case "NO_POLICY":
            return "no policy fits it: it may run at every site"
    return "it may run at every site"
