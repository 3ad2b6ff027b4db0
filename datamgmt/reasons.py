"""Why a wanted replica, a transfer, a subscription or a deletion waits or is refused: codes with parameters,
rendered when asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gridcore.amounts import size


class Reason(StrEnum):
    """What is stored on the row: `render` has its sentence, `turn` whose turn it is, `cure` what to do."""

    ALLOCATED = "ALLOCATED"
    ROUTED = "ROUTED"
    PROBE = "PROBE"
    COMPLETE = "COMPLETE"
    NO_SOURCE = "NO_SOURCE"
    SOURCE_EXCEPTED = "SOURCE_EXCEPTED"
    NO_PATH = "NO_PATH"
    NO_LIVE_LINK = "NO_LIVE_LINK"
    LINK_PARKED = "LINK_PARKED"
    LINK_FORCED = "LINK_FORCED"
    PROBE_UNDER_WAY = "PROBE_UNDER_WAY"
    HOP_EXCLUDED = "HOP_EXCLUDED"
    SLOW_PATH = "SLOW_PATH"
    NO_TRANSIT_SPACE = "NO_TRANSIT_SPACE"
    ROUTER_SUSPENDED = "ROUTER_SUSPENDED"
    SUSPENDED = "SUSPENDED"
    UNSUBSCRIBED = "UNSUBSCRIBED"
    QUOTA_FULL = "QUOTA_FULL"
    SE_FULL = "SE_FULL"
    SE_DISABLED = "SE_DISABLED"

    WINDOW_FULL = "WINDOW_FULL"
    QUEUED = "QUEUED"
    IN_FLIGHT = "IN_FLIGHT"
    RETRY_LATER = "RETRY_LATER"
    EXHAUSTED = "EXHAUSTED"
    TFC_NO_PFN = "TFC_NO_PFN"
    AGENT_ABSENT = "AGENT_ABSENT"
    SOURCE_SILENT = "SOURCE_SILENT"
    DESTINATION_SILENT = "DESTINATION_SILENT"

    ASKED = "ASKED"
    DENIED = "DENIED"
    NO_CLOSED_BLOCK = "NO_CLOSED_BLOCK"
    BLOCK_OPEN = "BLOCK_OPEN"
    DELIVERING = "DELIVERING"
    DELIVERED = "DELIVERED"

    LAST_REPLICA = "LAST_REPLICA"
    LAST_CUSTODIAL = "LAST_CUSTODIAL"
    LAST_OF_FILES = "LAST_OF_FILES"
    SOURCE_IN_USE = "SOURCE_IN_USE"
    SUBSCRIBED = "SUBSCRIBED"
    STAGED_FOR_JOBS = "STAGED_FOR_JOBS"
    UNDELETE_WINDOW = "UNDELETE_WINDOW"
    PACED = "PACED"
    MOVED = "MOVED"
    ABSENT = "ABSENT"
    REGISTERED = "REGISTERED"
    NOT_AN_LFN = "NOT_AN_LFN"
    STORAGE_ERROR = "STORAGE_ERROR"


@dataclass(frozen=True, slots=True)
class _Text:
    """A part in brackets is left out where one of its parameters is not there.

    `basis` is the number PhEDEx had for it.
    """

    sentence: str
    turn: str
    cure: str | None = None
    basis: int | None = None


_TEXTS: Mapping[Reason, _Text] = {
    Reason.ALLOCATED: _Text("wanted, and not yet looked at by the router", "the router", basis=0),
    Reason.ROUTED: _Text(
        "on its way from {src} over {path}; next hop {src} -> {hop_dst}",
        "the transfer agent",
        "tierflow transfer list",
        basis=0,
    ),
    Reason.PROBE: _Text(
        "sent as a probe over parked link {link_src} -> {link_dst}",
        "the transfer agent",
        "tierflow link show {link_src} {link_dst}",
        basis=0,
    ),
    Reason.COMPLETE: _Text("complete and verified at {dst}", "nobody"),
    Reason.NO_SOURCE: _Text(
        "no storage element holds it complete[, {n} files are lost]",
        "whoever produces or restores it",
        "tierflow block show {block}",
        basis=-6,
    ),
    Reason.SOURCE_EXCEPTED: _Text(
        "the only complete copies lack {n} files",
        "whoever can restore them",
        "tierflow why block:{block}",
        basis=-6,
    ),
    Reason.NO_PATH: _Text(
        "no links lead from {sources} to {dst} in at most {max_hops} hops",
        "the operator of the links",
        "tierflow link list",
        basis=-5,
    ),
    Reason.NO_LIVE_LINK: _Text(
        "no enabled link leads to {dst}[; {n} are disabled: {links}]",
        "the operator of the links",
        "tierflow link enable {link_src} {link_dst}",
        basis=-3,
    ),
    Reason.LINK_PARKED: _Text(
        "link {link_src} -> {link_dst} is parked after [{n} ]repeated failures[ ({error_class}, whose is "
        "{owner})]; it is tried again at {until}",
        "the router",
        "tierflow link probe {link_src} {link_dst}",
        basis=-3,
    ),
    Reason.LINK_FORCED: _Text(
        "link {link_src} -> {link_dst} is parked by {actor}[ until {until}][: {note}]",
        "{actor}",
        "tierflow link set {link_src} {link_dst} --open",
        basis=-3,
    ),
    Reason.PROBE_UNDER_WAY: _Text(
        "link {link_src} -> {link_dst} failed repeatedly; another block is sent over it as a probe first",
        "the router",
        "tierflow link show {link_src} {link_dst}",
        basis=-3,
    ),
    Reason.HOP_EXCLUDED: _Text(
        "copying it over {link_src} -> {link_dst} failed too often[ ({error_class})]; that hop is left out "
        "until {until}",
        "the router",
        'tierflow transfer errors --link "{link_src}>{link_dst}"',
        basis=-5,
    ),
    Reason.SLOW_PATH: _Text(
        "the best way, over {path}, would take {days} days",
        "the operator of the links",
        'tierflow why "link:{link_src}>{link_dst}"',
        basis=-5,
    ),
    Reason.NO_TRANSIT_SPACE: _Text(
        "{se} has {free} [of {limit} ]of transit space left[, held for {holders},] and the block has {size}",
        "the admin of {se}",
        "tierflow site space",
        basis=-5,
    ),
    Reason.ROUTER_SUSPENDED: _Text(
        "given up until {until} after {attempts} tries since {since}[; the last one: {error}]",
        "the admins of the links",
        'tierflow why "link:{link_src}>{link_dst}"',
        basis=-4,
    ),
    Reason.SUSPENDED: _Text(
        "the subscription is suspended[ by {actor}][ until {until}]",
        "whoever suspended it",
        "tierflow subscription resume {id}",
        basis=-2,
    ),
    Reason.UNSUBSCRIBED: _Text("no subscription asks for it any more", "nobody"),
    Reason.QUOTA_FULL: _Text(
        "group {group} has {free} of {limit} left at {site}, and {size} are needed"
        "[; subscription {behind} comes first]",
        "group {group}, or the admin of {site}",
        "tierflow site quota set {site} {group} BYTES",
        basis=-1,
    ),
    Reason.SE_FULL: _Text(
        "{se}[ has {free} of {space} free][ had no room for a copy; the next is sent at {until}]"
        "[, {arriving} are arriving][, and {size} are needed][; subscription {behind} comes first]",
        "the admin of {se}",
        "tierflow site space {site}",
        basis=-1,
    ),
    Reason.SE_DISABLED: _Text(
        "{se} is disabled[: {note}]", "the admin of {se}", "tierflow apply DIR", basis=-3
    ),
    Reason.WINDOW_FULL: _Text(
        "{bytes} of priority {priority} are under way to {dst}, and the most is {limit}",
        "the transfer agent",
        "tierflow transfer queue",
        basis=-1,
    ),
    Reason.QUEUED: _Text(
        "{n} files are queued on {link_src} -> {link_dst} behind {ahead}[, {eta}]",
        "the transfer agent",
        "tierflow transfer queue",
        basis=1,
    ),
    Reason.IN_FLIGHT: _Text(
        "being copied over {src} -> {dst} since {since}",
        "the transfer tool",
        "tierflow transfer list",
        basis=1,
    ),
    Reason.RETRY_LATER: _Text(
        "try {attempt} of {max_attempts} failed ([{error_class}, whose is {owner}: ]{error}); the next one "
        "is at {until}",
        "the transfer agent",
        "tierflow transfer errors",
        basis=2,
    ),
    Reason.EXHAUSTED: _Text(
        "given up on {src} -> {dst} at try {attempt} ({error})",
        "the router",
        "tierflow transfer errors",
        basis=2,
    ),
    Reason.TFC_NO_PFN: _Text(
        "{se} has no PFN for {lfn}[: {rule}]", "the admin of {se}", "tierflow tfc lint {se}", basis=2
    ),
    Reason.AGENT_ABSENT: _Text(
        "no transfer agent holds {se}[ since {since}]",
        "the operator of the agents",
        "tierflow agent run transfer_agent",
        basis=1,
    ),
    Reason.SOURCE_SILENT: _Text(
        "source {src} does not answer", "the admin of {src}", "tierflow transfer errors", basis=2
    ),
    Reason.DESTINATION_SILENT: _Text(
        "destination {dst} does not answer", "the admin of {dst}", "tierflow transfer errors", basis=2
    ),
    Reason.ASKED: _Text(
        "waits for approval[ by {who}][ at {dst}][ since {since}]",
        "whoever may decide[ at {dst}]",
        "tierflow {noun} approve {id}",
    ),
    Reason.DENIED: _Text("{actor} said no[: {note}]", "whoever asked for it"),
    Reason.NO_CLOSED_BLOCK: _Text(
        "the dataset has no closed block yet; only closed blocks are moved",
        "whoever writes the dataset",
        "tierflow dataset show {dataset}",
        basis=-1,
    ),
    Reason.BLOCK_OPEN: _Text(
        "block {block} is open: it holds {files} files and closes at {close_by}",
        "the block manager",
        "tierflow block close {block}",
        basis=-1,
    ),
    Reason.DELIVERING: _Text("{complete} of {blocks} blocks are delivered", "the transfer agent"),
    Reason.DELIVERED: _Text("all {blocks} closed blocks are delivered", "nobody"),
    Reason.LAST_REPLICA: _Text(
        "it is the last complete replica of its block",
        "whoever wants it away",
        "tierflow block show {block}",
    ),
    Reason.LAST_CUSTODIAL: _Text(
        "it is the last custodial replica: the one kept to preserve the data",
        "whoever keeps it",
        "tierflow delete {block} {se} --custodial-too",
    ),
    Reason.LAST_OF_FILES: _Text(
        "[{n} ]files have their only good copy there", "whoever wants it away", "tierflow block show {block}"
    ),
    Reason.SOURCE_IN_USE: _Text(
        "files are being copied from it to [{dst}, ]another storage element",
        "the transfer agent",
        "tierflow transfer list",
    ),
    Reason.SUBSCRIBED: _Text(
        "a subscription asks for it; it would be copied there again",
        "whoever subscribed it",
        "tierflow subscription remove {id}",
    ),
    Reason.STAGED_FOR_JOBS: _Text(
        "[{n} ]jobs are about to read it there", "the jobs", "tierflow job list --state READY"
    ),
    Reason.UNDELETE_WINDOW: _Text(
        "it is deleted at {until}, and kept on demand until then", "nobody", "tierflow deletion undo {id}"
    ),
    Reason.PACED: _Text(
        "at most {n} files an hour are deleted at {se}", "the deleter", "tierflow deletion list"
    ),
    Reason.MOVED: _Text("the data has moved to {dst}", "nobody"),
    Reason.ABSENT: _Text("there is no such replica", "whoever asked for it"),
    Reason.REGISTERED: _Text(
        "the file belongs to a replica there; the replica is to be deleted instead",
        "whoever asked for it",
        "tierflow delete {block} {se}",
    ),
    Reason.NOT_AN_LFN: _Text(
        "only single files, named by their LFN, are deleted on a wish", "whoever asked for it"
    ),
    Reason.STORAGE_ERROR: _Text(
        "the storage did not delete it[ ({error})]; it is tried again[ at {until}]",
        "the admin of {se}",
        "tierflow deletion list",
    ),
}
#: Whose turn it may be without any person.
_AGENTS = frozenset(
    (
        *("nobody", "the jobs", "the router", "the transfer agent", "the transfer tool"),
        *("the block manager", "the deleter"),
    )
)
_SE_KEYS = frozenset(
    ("src", "dst", "hop_dst", "link_src", "link_dst", "se", "sources", "path", "holders", "links")
)
#: Parameters that are bytes.
_SIZES = frozenset(("free", "limit", "size", "space", "arriving", "bytes"))
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)[:.\d]*(?:Z|\+00:00)")
_OPTIONAL = re.compile(r"\[([^][]*)\]")
_PARAMETER = re.compile(r"\{(\w+)\}")


class _Filled(dict[str, str]):
    """Parameters as text; what an old row does not carry reads '?'."""

    def __missing__(self, key: str) -> str:
        return "?"


class _Asked(dict[str, str]):
    """Parameters of a command; what a row does not carry reads as commands name their arguments."""

    def __missing__(self, key: str) -> str:
        return key.upper()


def render(code: Reason, params: Mapping[str, object], names: Mapping[int, str] | None = None) -> str:
    """The sentence of a stored reason; `names` turns the storage element ids in `params` into names.

    Bytes have their unit, moments are told to the minute.
    """
    told = {key: _legible(value, key) for key, value in params.items()}
    return _written(_TEXTS[code].sentence, _Filled(_texts(told, names or {})))


def turn(code: Reason, params: Mapping[str, object], names: Mapping[int, str] | None = None) -> str:
    """Who can make it go on."""
    return _written(_TEXTS[code].turn, _Filled(_texts(params, names or {})))


def is_person(turn: str | None) -> bool:
    """Whether somebody has to act, and not an agent, where it is so."""
    return turn is not None and turn not in _AGENTS


def cure(code: Reason, params: Mapping[str, object], names: Mapping[int, str] | None = None) -> str | None:
    """The command that makes it go on or tells more; None where there is nothing to do."""
    command = _TEXTS[code].cure
    return None if command is None else _written(command, _Asked(_texts(params, names or {})))


def basis(code: Reason) -> int | None:
    """The number PhEDEx had for it; None where it had none."""
    return _TEXTS[code].basis


def _written(text: str, values: Mapping[str, str]) -> str:
    def part(found: re.Match[str]) -> str:
        return found[1] if all(name in values for name in _PARAMETER.findall(found[1])) else ""

    return _OPTIONAL.sub(part, text).format_map(values)


def _texts(params: Mapping[str, object], names: Mapping[int, str]) -> dict[str, str]:
    given = {key: value for key, value in params.items() if value is not None}
    return {key: _named(value, names, key) if key in _SE_KEYS else str(value) for key, value in given.items()}


def _legible(value: object, key: str) -> object:
    if key in _SIZES and isinstance(value, int | float):
        return size(value)
    found = _MOMENT.fullmatch(str(value))
    return f"{found[1]} {found[2]} UTC" if found else value


def _named(value: object, names: Mapping[int, str], key: str) -> str:
    if isinstance(value, list | tuple):
        if key == "links":
            return ", ".join(_named(item, names, "path") for item in value)
        separator = " -> " if key == "path" else ", "
        return separator.join(_named(item, names, key) for item in value)
    return names.get(value, f"SE {value}") if isinstance(value, int) else str(value)
