"""Brokerage: may a job class run at a site, and if not, why not.

Bans, limits and whatever else changes by the minute is not judged here but when work is claimed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any

Params = dict[str, Any]
LISTED = 5  # names quoted in a reason; it is stored once per class and site


class Refusal(StrEnum):
    """Why a job class cannot run at a site, in the order of judgement."""

    SITE_DISABLED = "SITE_DISABLED"
    NOT_ALLOWED = "NOT_ALLOWED"
    EXCLUDED = "EXCLUDED"
    PLATFORM = "PLATFORM"
    CORES = "CORES"
    MEMORY = "MEMORY"
    WALL_TIME = "WALL_TIME"
    INPUT_NOWHERE = "INPUT_NOWHERE"
    INPUT_NOT_HERE = "INPUT_NOT_HERE"


ELIGIBLE = "ELIGIBLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a job class needs. Memory is the whole job's; `sites` None allows all.

    `input_ses` are the SEs that hold the complete input block: None for no input, empty for none yet.
    """

    cores: int = 1
    memory_mb: int = 0
    wall_s: int = 0
    platform: str | None = None
    sites: frozenset[str] | None = None
    sites_excluded: frozenset[str] = frozenset()
    input_ses: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """What a site offers; None is a limit the site does not have or has not declared."""

    name: str
    ses: frozenset[str] = frozenset()
    cores_max: int | None = None
    memory_mb_per_core: int | None = None
    wall_s_max: int | None = None
    platforms: frozenset[str] | None = None
    enabled: bool = True
    disabled_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one question: a code, and what a sentence about it needs."""

    eligible: bool
    code: str
    params: Params = field(default_factory=dict)


def judge(requirements: Requirements, site: SiteFacts) -> Verdict:
    """ELIGIBLE, or the first refusal."""
    for refusal, predicate in PREDICATES.items():
        params = predicate(requirements, site)
        if params is not None:
            return Verdict(False, refusal, params)
    return Verdict(True, ELIGIBLE)


def judge_all(requirements: Requirements, site: SiteFacts) -> list[Verdict]:
    """One verdict per predicate, in order; `code` names the predicate, passed or not."""
    verdicts = []
    for refusal, predicate in PREDICATES.items():
        params = predicate(requirements, site)
        verdicts.append(Verdict(params is None, refusal, params or {}))
    return verdicts


def render(code: str, params: Mapping[str, Any]) -> str:
    """A verdict as a sentence; a code of another release is shown as it is."""
    sentence = _SENTENCES.get(code)
    return sentence(params) if sentence else f"{code} {dict(params)}"


def fingerprint(
    task_type: str, leaf: int | str, requirements: Requirements, input_set: int | str | None
) -> str:
    """The name of a job class, 32 hexadecimal digits.

    Where the input lies is left out: replicas come and go, the class stays.
    """
    facts = [
        task_type,
        leaf,
        input_set,
        requirements.cores,
        requirements.memory_mb,
        requirements.wall_s,
        requirements.platform,
        None if requirements.sites is None else sorted(requirements.sites),
        sorted(requirements.sites_excluded),
    ]
    return sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()[:32]


def _disabled(needs: Requirements, site: SiteFacts) -> Params | None:
    return None if site.enabled else {"site": site.name, "reason": site.disabled_reason or "no reason given"}


def _not_allowed(needs: Requirements, site: SiteFacts) -> Params | None:
    if needs.sites is None or site.name in needs.sites:
        return None
    return {"site": site.name, **_some(needs.sites)}


def _excluded(needs: Requirements, site: SiteFacts) -> Params | None:
    return {"site": site.name} if site.name in needs.sites_excluded else None


def _platform(needs: Requirements, site: SiteFacts) -> Params | None:
    if needs.platform is None or site.platforms is None or needs.platform in site.platforms:
        return None
    return {"needs": needs.platform, **_some(site.platforms)}


def _cores(needs: Requirements, site: SiteFacts) -> Params | None:
    return _over(needs.cores, site.cores_max)


def _memory(needs: Requirements, site: SiteFacts) -> Params | None:
    per_core = site.memory_mb_per_core
    return _over(needs.memory_mb, None if per_core is None else per_core * needs.cores)


def _wall_time(needs: Requirements, site: SiteFacts) -> Params | None:
    return _over(needs.wall_s, site.wall_s_max)


def _input_nowhere(needs: Requirements, site: SiteFacts) -> Params | None:
    return None if needs.input_ses is None or needs.input_ses else {}


def _input_not_here(needs: Requirements, site: SiteFacts) -> Params | None:
    if not needs.input_ses or needs.input_ses & site.ses:
        return None
    return {"site": site.name, **_some(needs.input_ses)}


PREDICATES: dict[Refusal, Callable[[Requirements, SiteFacts], Params | None]] = {
    Refusal.SITE_DISABLED: _disabled,
    Refusal.NOT_ALLOWED: _not_allowed,
    Refusal.EXCLUDED: _excluded,
    Refusal.PLATFORM: _platform,
    Refusal.CORES: _cores,
    Refusal.MEMORY: _memory,
    Refusal.WALL_TIME: _wall_time,
    Refusal.INPUT_NOWHERE: _input_nowhere,
    Refusal.INPUT_NOT_HERE: _input_not_here,
}

_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    ELIGIBLE: lambda p: "can run here",
    Refusal.SITE_DISABLED: lambda p: f"{p['site']} is disabled: {p['reason']}",
    Refusal.NOT_ALLOWED: lambda p: f"the task runs only at {_names(p)}",
    Refusal.EXCLUDED: lambda p: f"the task excludes {p['site']}",
    Refusal.PLATFORM: lambda p: f"needs {p['needs']}, the site offers {_names(p)}",
    Refusal.CORES: lambda p: f"needs {_cores_text(p['needs'])}, the site offers {p['offers']}",
    Refusal.MEMORY: lambda p: (
        f"needs {_memory_text(p['needs'])}, the site offers {_memory_text(p['offers'])}"
    ),
    Refusal.WALL_TIME: lambda p: (
        f"needs {_hours_text(p['needs'])}, the site offers {_hours_text(p['offers'])}"
    ),
    Refusal.INPUT_NOWHERE: lambda p: "no storage element holds the complete input block",
    Refusal.INPUT_NOT_HERE: lambda p: f"the input block is not at {p['site']}; complete at {_names(p)}",
}


def _over(needs: int, offers: int | None) -> Params | None:
    return None if offers is None or needs <= offers else {"needs": needs, "offers": offers}


def _some(names: Iterable[str]) -> Params:
    ordered = sorted(names)
    return {"names": ordered[:LISTED], "count": len(ordered)}


def _names(params: Mapping[str, Any]) -> str:
    more = params["count"] - len(params["names"])
    return (", ".join(params["names"]) or "none") + (f" and {more} more" if more else "")


def _cores_text(cores: int) -> str:
    return f"{cores} core" if cores == 1 else f"{cores} cores"


def _memory_text(megabytes: int) -> str:
    return f"{megabytes} MB" if megabytes < 1000 else f"{megabytes / 1000:g} GB"


def _hours_text(seconds: int) -> str:
    return f"{seconds} s" if seconds < 3600 else f"{seconds / 3600:.3g} h"
