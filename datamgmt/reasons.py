"""Why a wanted replica, a transfer or a subscription waits: codes with parameters, rendered when asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """What is stored on the row; its sentence is in `render`, whose turn it is in `turn`."""

    ALLOCATED = "ALLOCATED"
    ROUTED = "ROUTED"
    PROBE = "PROBE"
    COMPLETE = "COMPLETE"
    NO_SOURCE = "NO_SOURCE"
    NO_PATH = "NO_PATH"
    LINK_PARKED = "LINK_PARKED"
    PROBE_UNDER_WAY = "PROBE_UNDER_WAY"
    HOP_EXCLUDED = "HOP_EXCLUDED"
    NO_TRANSIT_SPACE = "NO_TRANSIT_SPACE"
    SUSPENDED = "SUSPENDED"
    UNSUBSCRIBED = "UNSUBSCRIBED"

    WINDOW_FULL = "WINDOW_FULL"
    IN_FLIGHT = "IN_FLIGHT"
    RETRY_LATER = "RETRY_LATER"
    EXHAUSTED = "EXHAUSTED"
    SOURCE_SILENT = "SOURCE_SILENT"
    DESTINATION_SILENT = "DESTINATION_SILENT"

    NO_CLOSED_BLOCK = "NO_CLOSED_BLOCK"
    DELIVERING = "DELIVERING"
    DELIVERED = "DELIVERED"


@dataclass(frozen=True, slots=True)
class _Text:
    sentence: str
    turn: str


_TEXTS: Mapping[Reason, _Text] = {
    Reason.ALLOCATED: _Text("wanted, and not yet looked at by the router", "the router"),
    Reason.ROUTED: _Text(
        "on its way from {src} over {path}; next hop {src} -> {hop_dst}", "the transfer agent"
    ),
    Reason.PROBE: _Text("sent as a probe over parked link {link_src} -> {link_dst}", "the transfer agent"),
    Reason.COMPLETE: _Text("complete and verified at {dst}", "nobody"),
    Reason.NO_SOURCE: _Text("no storage element holds it complete", "whoever produces or restores it"),
    Reason.NO_PATH: _Text(
        "no links lead from {sources} to {dst} in at most {max_hops} hops",
        "the operator of the links",
    ),
    Reason.LINK_PARKED: _Text(
        "link {link_src} -> {link_dst} is parked after repeated failures; it is tried again at {until}",
        "the router",
    ),
    Reason.PROBE_UNDER_WAY: _Text(
        "link {link_src} -> {link_dst} failed repeatedly; another block is sent over it as a probe first",
        "the router",
    ),
    Reason.HOP_EXCLUDED: _Text(
        "copying it over {link_src} -> {link_dst} failed too often; that hop is left out until {until}",
        "the router",
    ),
    Reason.NO_TRANSIT_SPACE: _Text(
        "{se} has {free} bytes of transit space left and the block has {size}", "the admin of {se}"
    ),
    Reason.SUSPENDED: _Text("the subscription is suspended", "whoever suspended it"),
    Reason.UNSUBSCRIBED: _Text("no subscription asks for it any more", "nobody"),
    Reason.WINDOW_FULL: _Text(
        "waiting for a free place in the window of link {src} -> {dst} ({in_flight} in flight)",
        "the transfer agent",
    ),
    Reason.IN_FLIGHT: _Text("being copied over {src} -> {dst} since {since}", "the transfer tool"),
    Reason.RETRY_LATER: _Text(
        "try {attempt} of {max_attempts} failed ({error}); the next one is at {until}", "the transfer agent"
    ),
    Reason.EXHAUSTED: _Text("given up on {src} -> {dst} after {attempt} tries ({error})", "the router"),
    Reason.SOURCE_SILENT: _Text("source {src} does not answer", "the admin of {src}"),
    Reason.DESTINATION_SILENT: _Text("destination {dst} does not answer", "the admin of {dst}"),
    Reason.NO_CLOSED_BLOCK: _Text(
        "the dataset has no closed block yet; only closed blocks are moved", "whoever writes the dataset"
    ),
    Reason.DELIVERING: _Text("{complete} of {blocks} blocks are delivered", "the transfer agent"),
    Reason.DELIVERED: _Text("all {blocks} closed blocks are delivered", "nobody"),
}
_SE_KEYS = frozenset({"src", "dst", "hop_dst", "link_src", "link_dst", "se", "sources", "path"})


class _Filled(dict[str, str]):
    """Parameters as text; what an old row does not carry reads '?'."""

    def __missing__(self, key: str) -> str:
        return "?"


def render(code: Reason, params: Mapping[str, object], names: Mapping[int, str] | None = None) -> str:
    """The sentence of a stored reason; `names` turns the storage element ids in `params` into names."""
    return _TEXTS[code].sentence.format_map(_filled(params, names or {}))


def turn(code: Reason, params: Mapping[str, object], names: Mapping[int, str] | None = None) -> str:
    """Who can make it go on."""
    return _TEXTS[code].turn.format_map(_filled(params, names or {}))


def _filled(params: Mapping[str, object], names: Mapping[int, str]) -> _Filled:
    return _Filled(
        {key: _named(value, names, key) if key in _SE_KEYS else str(value) for key, value in params.items()}
    )


def _named(value: object, names: Mapping[int, str], key: str) -> str:
    if isinstance(value, list | tuple):
        separator = " -> " if key == "path" else ", "
        return separator.join(_named(item, names, key) for item in value)
    return names.get(value, f"SE {value}") if isinstance(value, int) else str(value)
