"""Charts as SVG text: pure functions of what insights answer. Colours are classes of the style sheet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gridapp.insights.values import some

#: Job states in the order a bar shows them: what is finished first, trouble last.
JOB_STATES = (
    *("DONE", "STAGEOUT", "RUNNING", "SUBMITTED", "LEASED", "READY"),
    *("RETRY_WAIT", "LOST", "HELD", "FAILED", "KILLED"),
)
WIDTH, ROW, TOP = 440, 108, 34
#: Links in a picture: more would hide each other.
DRAWN = 120
NODE_W, NODE_H = 112, 44


def words(state: str) -> str:
    """A state as one reads it: `retry wait`."""
    return state.lower().replace("_", " ")


def stacked_bar(counts: Mapping[str, int], label: str) -> str:
    """Jobs by state as one bar; the label and the numbers are its text for those who do not see it."""
    parts = [(state, counts[state]) for state in JOB_STATES if counts.get(state)]
    total = sum(n for _, n in parts)
    told = ", ".join(f"{n} {words(state)}" for state, n in parts) or "no jobs yet"
    left = 0.0
    pieces = []
    for state, n in parts:
        width = 100 * n / total
        tip = f"<title>{n} {words(state)}</title>"
        pieces.append(
            f'<rect class="s-{state.lower()}" x="{left:.3f}" width="{width:.3f}" height="8">{tip}</rect>'
        )
        left += width
    return _bar(f"{label}: {told}", pieces)


def progress_bar(percent: float, label: str) -> str:
    """How much of something is done."""
    part = min(100.0, max(0.0, percent))
    kind = "s-done" if part >= 100 else "s-running"
    return _bar(f"{label}: {part:g} %", [f'<rect class="{kind}" width="{part:.3f}" height="8"/>'])


def _bar(label: str, pieces: Sequence[str]) -> str:
    return (
        f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">'
        f'<rect class="s-none" width="100" height="8"/>{"".join(pieces)}</svg>'
    )


# --- the grid as a picture ---------------------------------------------------------------------------


def drawn(links: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The links a picture can show: all of a small grid; of a large one those not open, then the busiest."""
    if len(links) <= DRAWN:
        return links
    told = [one for one in links if one["state"] != "OPEN" or one["active"]]
    return sorted(told, key=lambda one: (one["state"] == "OPEN", -one["active"]))[:DRAWN]


def topology(sites: Sequence[Mapping[str, Any]], links: Sequence[Mapping[str, Any]]) -> str:
    """Sites by tier from top to bottom and the links between their storage elements, coloured by state."""
    tiers: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for site in untangled(sites, links):
        tiers[site["tier"]].append(site)
    width = max([WIDTH, *(len(row) * (NODE_W + 22) for row in tiers.values())])
    places = _places(tiers, width)
    height = TOP + ROW * max(len(tiers) - 1, 0) + NODE_H
    ses = {se["name"]: site["name"] for site in sites for se in site["storage"]}
    lines = [_line(one, places, ses) for one in drawn(links)]
    nodes = [_node(site, *places[site["name"]]) for site in sites]
    bad = sum(one["state"] != "OPEN" for one in links)
    told = f"{len(sites)} sites, {len(links)} links, {bad} of them not open"
    return (
        f'<svg class="topology" viewBox="0 0 {width} {height}" role="img" aria-label="{told}">'
        f"{''.join(lines)}{''.join(nodes)}</svg>"
    )


def untangled(
    sites: Sequence[Mapping[str, Any]], links: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The sites by tier, each below those it is linked to, so that few lines cross."""
    home = {se["name"]: site["name"] for site in sites for se in site["storage"]}
    near: dict[str, list[str]] = defaultdict(list)
    for one in links:
        near[home.get(one["dst"], "")].append(home.get(one["src"], ""))
    placed: dict[str, int] = {}
    for tier in sorted({site["tier"] for site in sites}):
        row = [site for site in sites if site["tier"] == tier]
        row.sort(key=lambda site: (_middle(near[site["name"]], placed), site["name"]))
        placed |= {site["name"]: len(placed) + n for n, site in enumerate(row)}
    return sorted(sites, key=lambda site: placed[site["name"]])


def _middle(names: Sequence[str], placed: Mapping[str, int]) -> float:
    known = [placed[name] for name in names if name in placed]
    return sum(known) / len(known) if known else 0.0


def _places(tiers: Mapping[int, Sequence[Mapping[str, Any]]], width: int) -> dict[str, tuple[float, float]]:
    """The centre of each site's node by its name."""
    places = {}
    for level, tier in enumerate(sorted(tiers)):
        step = width / len(tiers[tier])
        for n, site in enumerate(tiers[tier]):
            places[site["name"]] = (step * (n + 0.5), TOP / 2 + NODE_H / 2 + ROW * level)
    return places


def _node(site: Mapping[str, Any], x: float, y: float) -> str:
    slots = sum(one["slots"] for one in site["endpoints"])
    taken = sum(one["open"] for one in site["endpoints"])
    below = f"{some(taken, 'job')}, {some(slots, 'slot')}" if slots else "storage only"
    kind = "node" if site["state"] == "ENABLED" else "node off"
    left, top = x - NODE_W / 2, y - NODE_H / 2
    return (
        f'<g class="{kind}"><title>{escape(site["name"])}: {below}</title>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{NODE_W}" height="{NODE_H}" rx="9"/>'
        f'<text x="{x:.1f}" y="{y - 3:.1f}">{escape(site["name"])}</text>'
        f'<text class="small" x="{x:.1f}" y="{y + 13:.1f}">{below}</text></g>'
    )


def _line(link: Mapping[str, Any], places: Mapping[str, tuple[float, float]], ses: Mapping[str, str]) -> str:
    """One direction of a link, bent to its own right, so that the way back is a line of its own."""
    src, dst = places.get(ses.get(link["src"], "")), places.get(ses.get(link["dst"], ""))
    if src is None or dst is None or src == dst:
        return ""
    along = (dst[0] - src[0], dst[1] - src[1])
    length = (along[0] ** 2 + along[1] ** 2) ** 0.5
    aside = (-along[1] / length * 7, along[0] / length * 7)
    start = (src[0] + aside[0], src[1] + aside[1])
    kind = f"link l-{link['state'].lower()}" + (" busy" if link["active"] else "")
    return (
        f'<g class="{kind}"><title>{escape(_told(link))}</title>'
        f'<path d="M{start[0]:.1f} {start[1]:.1f}l{along[0]:.1f} {along[1]:.1f}"/>'
        f"{_arrow(start, along, length)}</g>"
    )


def _arrow(start: tuple[float, float], along: tuple[float, float], length: float) -> str:
    """A head a little past the middle, where no node hides it."""
    x, y = along[0] / length, along[1] / length
    tip = (start[0] + 0.56 * along[0], start[1] + 0.56 * along[1])
    corners = [
        tip,
        (tip[0] - 9 * x - 4.5 * y, tip[1] - 9 * y + 4.5 * x),
        (tip[0] - 9 * x + 4.5 * y, tip[1] - 9 * y - 4.5 * x),
    ]
    return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}"/>'


def _told(link: Mapping[str, Any]) -> str:
    rate = "no rate yet" if link["rate_mb_s"] is None else f"{link['rate_mb_s']:g} MB/s"
    files = f"{link['files_ok']} files good, {link['files_bad']} bad"
    told = f"{link['src']} to {link['dst']}: {words(link['state'])}, {rate}, {files}"
    return f"{told}; {link['last_error']}" if link["last_error"] else told
