"""Brokerage: may a job class run at a site, if not, why not, and what would have to change.

Bans, limits and whatever else changes by the minute is not judged here but when work is claimed. A limit
that a site does not declare does not bind; what a job needs to find there (software, GPUs, a way out) is not
assumed where it is not declared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from math import inf
from typing import Any

Params = dict[str, Any]
LISTED = 5  # names quoted in a reason; it is stored once per class and site


class Refusal(StrEnum):
    """Why a job class cannot run at a site, in the order of judgement."""

    SITE_DISABLED = "SITE_DISABLED"
    NOT_ALLOWED = "NOT_ALLOWED"
    EXCLUDED = "EXCLUDED"
    PLATFORM = "PLATFORM"
    TAGS = "TAGS"
    CORES = "CORES"
    GPUS = "GPUS"
    MEMORY = "MEMORY"
    DISK = "DISK"
    WALL_TIME = "WALL_TIME"
    OUTBOUND = "OUTBOUND"
    INPUT_NOWHERE = "INPUT_NOWHERE"
    INPUT_NOT_HERE = "INPUT_NOT_HERE"


ELIGIBLE = "ELIGIBLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a job class needs. Memory and scratch disk are the whole job's; `sites` None allows all.

    `tags` name software that must be installed, `outbound` asks for network connections to the outside.
    `input_ses` are the SEs that hold the complete input block: None for no input, empty for none yet.
    """

    cores: int = 1
    memory_mb: int = 0
    wall_s: int = 0
    platform: str | None = None
    sites: frozenset[str] | None = None
    sites_excluded: frozenset[str] = frozenset()
    input_ses: frozenset[str] | None = None
    disk_mb: int = 0
    tags: frozenset[str] = frozenset()
    gpus: int = 0
    outbound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """What a site offers a job at one of its endpoints; None is what it has not declared.

    A limit not declared does not bind; software not declared is not there. `disk_mb` and `gpus` are the most
    that one job may use.
    """

    name: str
    ses: frozenset[str] = frozenset()
    cores_max: int | None = None
    memory_mb_per_core: int | None = None
    wall_s_max: int | None = None
    platforms: frozenset[str] | None = None
    enabled: bool = True
    disabled_reason: str | None = None
    disk_mb: int | None = None
    tags: frozenset[str] | None = None
    gpus: int = 0
    outbound: bool | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one question: a code, and what a sentence about it needs."""

    eligible: bool
    code: str
    params: Params = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What it says, to be read."""
        return render(self.code, self.params)


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


def judge_any(requirements: Requirements, offers: Sequence[SiteFacts]) -> Verdict:
    """ELIGIBLE if any of a site's endpoints offers enough, else the refusal of the one that comes nearest.

    Raises ValueError without an offer.
    """
    if len(offers) == 1:
        return judge(requirements, offers[0])
    return judge(requirements, nearest(requirements, offers))


def nearest(requirements: Requirements, offers: Iterable[SiteFacts]) -> SiteFacts:
    """The offer that would need the smallest change; the first of equals."""
    return max(offers, key=lambda offer: nearness(requirements, offer))


def nearness(requirements: Requirements, site: SiteFacts) -> tuple[bool, int, int, float]:
    """The more, the nearer: (whether the task allows the site, minus the number of refusals, the place of the
    first one in the order, minus the widest gap)."""
    verdicts = judge_all(requirements, site)
    refused = [place for place, one in enumerate(verdicts) if not one.eligible]
    allowed = _not_allowed(requirements, site) is None and _excluded(requirements, site) is None
    widest = max((gap(verdicts[place].params) for place in refused), default=1.0)
    return allowed, -len(refused), refused[0] if refused else len(PREDICATES), -widest


def gap(params: Mapping[str, Any]) -> float:
    """How many times more is needed than offered; 1 where that is no number."""
    offers = params.get("offers")
    if offers is None:
        return 1.0
    return float(params["needs"] / offers) if offers else inf


def render(code: str, params: Mapping[str, Any]) -> str:
    """A verdict as a sentence; a code of another release is shown as it is."""
    sentence = _SENTENCES.get(code)
    return sentence(params) if sentence else f"{code} {dict(params)}"


def cure(code: str, params: Mapping[str, Any], site: str) -> str:
    """The smallest change that takes this refusal away; empty where there is nothing to change."""
    change = _CURES.get(code)
    return change({"site": site, **params}) if change else ""


def fingerprint(
    task_type: str, leaf: int | str, requirements: Requirements, input_set: int | str | None
) -> str:
    """The name of a job class, 32 hexadecimal digits.

    Where the input lies is left out: replicas come and go, the class stays.
    """
    facts: list[Any] = [
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
    if later := named_since(requirements):
        facts.append(later)
    return sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()[:32]


def named_since(needs: Requirements) -> Params:
    """Requirements the first release did not know, those that are asked for: without them a class keeps its
    name."""
    asked = {
        "disk_mb": needs.disk_mb,
        "gpus": needs.gpus,
        "outbound": needs.outbound,
        "tags": sorted(needs.tags),
    }
    return {name: value for name, value in asked.items() if value}


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


def _tags(needs: Requirements, site: SiteFacts) -> Params | None:
    missing = needs.tags - (site.tags or frozenset())
    return {"declared": site.tags is not None, **_some(missing)} if missing else None


def _cores(needs: Requirements, site: SiteFacts) -> Params | None:
    return _over(needs.cores, site.cores_max)


def _gpus(needs: Requirements, site: SiteFacts) -> Params | None:
    return _over(needs.gpus, site.gpus)


def _memory(needs: Requirements, site: SiteFacts) -> Params | None:
    per_core = site.memory_mb_per_core
    return _over(needs.memory_mb, None if per_core is None else per_core * needs.cores)


def _disk(needs: Requirements, site: SiteFacts) -> Params | None:
    return _over(needs.disk_mb, site.disk_mb)


def _wall_time(needs: Requirements, site: SiteFacts) -> Params | None:
    return _over(needs.wall_s, site.wall_s_max)


def _outbound(needs: Requirements, site: SiteFacts) -> Params | None:
    return {"declared": site.outbound is not None} if needs.outbound and not site.outbound else None


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
    Refusal.TAGS: _tags,
    Refusal.CORES: _cores,
    Refusal.GPUS: _gpus,
    Refusal.MEMORY: _memory,
    Refusal.DISK: _disk,
    Refusal.WALL_TIME: _wall_time,
    Refusal.OUTBOUND: _outbound,
    Refusal.INPUT_NOWHERE: _input_nowhere,
    Refusal.INPUT_NOT_HERE: _input_not_here,
}

_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    ELIGIBLE: lambda p: "can run here",
    Refusal.SITE_DISABLED: lambda p: f"{p['site']} is disabled: {p['reason']}",
    Refusal.NOT_ALLOWED: lambda p: f"the task runs only at {_names(p)}",
    Refusal.EXCLUDED: lambda p: f"the task excludes {p['site']}",
    Refusal.PLATFORM: lambda p: f"needs {p['needs']}, the site offers {_names(p)}",
    Refusal.TAGS: lambda p: (
        f"needs {_names(p)}, which the site does not have"
        if p["declared"]
        else f"needs {_names(p)}, the site declares no software"
    ),
    Refusal.CORES: lambda p: f"needs {_cores_text(p['needs'])}, the site offers {p['offers']}",
    Refusal.GPUS: lambda p: f"needs {_gpus_text(p['needs'])}, the site offers {p['offers'] or 'none'}",
    Refusal.MEMORY: lambda p: (
        f"needs {_memory_text(p['needs'])}, the site offers {_memory_text(p['offers'])}"
    ),
    Refusal.DISK: lambda p: (
        f"needs {_memory_text(p['needs'])} of scratch disk, the site offers {_memory_text(p['offers'])}"
    ),
    Refusal.WALL_TIME: lambda p: (
        f"needs {_hours_text(p['needs'])}, the site offers {_hours_text(p['offers'])}"
    ),
    Refusal.OUTBOUND: lambda p: (
        "needs connections to the outside, "
        + ("the site has none" if p["declared"] else "the site does not declare any")
    ),
    Refusal.INPUT_NOWHERE: lambda p: "no storage element holds the complete input block",
    Refusal.INPUT_NOT_HERE: lambda p: f"the input block is not at {p['site']}; complete at {_names(p)}",
}


_CURES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    Refusal.SITE_DISABLED: lambda p: f"have {p['site']} take work again",
    Refusal.NOT_ALLOWED: lambda p: f"add {p['site']} to the sites it is allowed at",
    Refusal.EXCLUDED: lambda p: f"take {p['site']} out of sites_excluded",
    Refusal.PLATFORM: lambda p: f"ask for {_names(p)}, or add {p['needs']} to the platforms of {p['site']}",
    Refusal.TAGS: lambda p: f"do without {_names(p)}, or install it at {p['site']} and add it to its tags",
    Refusal.CORES: lambda p: _less(p, _cores_text, "cores_max"),
    Refusal.GPUS: lambda p: _less(p, _gpus_text, "gpus"),
    Refusal.MEMORY: lambda p: _less(p, _memory_text, "memory_mb_per_core"),
    Refusal.DISK: lambda p: _less(p, _memory_text, "disk_mb"),
    Refusal.WALL_TIME: lambda p: _less(p, _hours_text, "wall_s_max"),
    Refusal.OUTBOUND: lambda p: f"do without outbound, or set outbound = true where {p['site']} has it",
    Refusal.INPUT_NOWHERE: lambda p: "produce the input block, or restore it",
    Refusal.INPUT_NOT_HERE: lambda p: f"subscribe the input dataset to a storage element of {p['site']}",
}


def _less(params: Mapping[str, Any], text: Callable[[int], str], offer: str) -> str:
    ask = f"ask for {text(params['offers'])} or less, or " if params["offers"] else ""
    return f"{ask}raise {offer} of {params['site']} to fit {text(params['needs'])}"


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


def _gpus_text(gpus: int) -> str:
    return f"{gpus} GPU" if gpus == 1 else f"{gpus} GPUs"


def _memory_text(megabytes: int) -> str:
    return f"{megabytes} MB" if megabytes < 1000 else f"{megabytes / 1000:g} GB"


def _hours_text(seconds: int) -> str:
    return f"{seconds} s" if seconds < 3600 else f"{seconds / 3600:.3g} h"
