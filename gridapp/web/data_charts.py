"""Charts of the data half as SVG text: pure functions of what insights answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gridapp.web.charts import drawn, untangled, words
from gridcore.amounts import size

#: Kinds of bytes in the order a bar shows them, with their classes.
SPACE = (("complete", "u-complete"), ("arriving", "u-arriving"), ("leaving", "u-leaving"))
NODE_W, NODE_H, GAP_X, GAP_Y, ROW_MAX = 118, 46, 18, 64, 8
#: Links whose rates are written beside them: more would hide each other.
LABELLED = 40
#: From how much percent good a link is of which grade, best first.
GRADES = ((99.0, "good"), (90.0, "fair"), (50.0, "poor"), (0.0, "bad"))


def grade(percent: float) -> str:
    """How good a link of so much success is: good, fair, poor or bad."""
    return next(word for least, word in GRADES if percent >= least)


def space_bar(one: Mapping[str, Any], told: str, largest: int = 0) -> str:
    """What fills a storage element of what it may hold, or of what it holds without a limit.

    `told` is its text for those who do not see it; without a limit it is drawn to the `largest` of its like.
    Copies that only pass are a line within the rest.
    """
    whole = max(one["space_bytes"] or largest, one["used"], 1)
    pieces, left = [], 0.0
    for name, kind in SPACE:
        width = 100 * one[name] / whole
        if width:
            tip = f"<title>{name}</title>"
            pieces.append(f'<rect class="{kind}" x="{left:.3f}" width="{width:.3f}" height="8">{tip}</rect>')
        left += width
    passing = 100 * min(one["transit"], one["complete"] + one["arriving"]) / whole
    if passing:
        end = 100 * (one["complete"] + one["arriving"]) / whole
        tip = "<title>in transit</title>"
        pieces.append(
            f'<rect class="u-transit" x="{end - passing:.3f}" width="{passing:.3f}" y="5.5" height="2.5">'
            f"{tip}</rect>"
        )
    kind = "bar nolimit" if one["free"] is None else "bar over" if one["free"] < 0 else "bar"
    return (
        f'<svg class="{kind}" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(told)}"><rect class="s-none" width="100" height="8"/>{"".join(pieces)}</svg>'
    )


def used_bar(percent: float, told: str) -> str:
    """How much of a limit is used, framed where it is all of it or more."""
    part = min(100.0, max(0.0, percent))
    kind = "bar over" if percent >= 100 else "bar"
    return (
        f'<svg class="{kind}" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(told)}: {percent:g} % used"><rect class="s-none" width="100" height="8"/>'
        f'<rect class="u-complete" width="{part:.3f}" height="8"/></svg>'
    )


# --- the hours ---------------------------------------------------------------------------------------

#: Of the chart of rates: its width, the height above the line and below it, what the scale takes.
CHART_W, ABOVE, BELOW, SCALE_W = 960, 110, 26, 76


def rates(hours: Sequence[Mapping[str, Any]]) -> str:
    """The mean rate of each hour above a line, failed copies below it; scale and hours are written beside."""
    most = max(max(one["rate"] for one in hours), 1.0)
    worst = max(one["files_bad"] for one in hours)
    step = (CHART_W - SCALE_W) / len(hours)
    scale = "".join(
        f'<path class="rule" d="M{SCALE_W} {y}H{CHART_W}"/>'
        f'<text x="{SCALE_W - 8}" y="{y + 4}">{size(rate)}/s</text>'
        for y, rate in ((12, most), (12 + ABOVE / 2, most / 2))
    )
    bars = "".join(
        _hour(one, SCALE_W + n * step, step, one["rate"] / most, one["files_bad"] / max(worst, 1))
        for n, one in enumerate(hours)
    )
    best = max(hours, key=lambda one: float(one["rate"]))
    told = (
        f"{size(sum(one['bytes_ok'] for one in hours))} moved; most at {best['hour'][11:16]} UTC with "
        f"{size(most)}/s; {sum(one['files_bad'] for one in hours)} copies failed"
    )
    return (
        f'<svg class="rates" viewBox="0 0 {CHART_W} {ABOVE + BELOW + 34}" role="img" aria-label="{told}">'
        f'{scale}{bars}<path class="base" d="M{SCALE_W} {12 + ABOVE}H{CHART_W}"/></svg>'
    )


def _hour(one: Mapping[str, Any], left: float, step: float, part: float, bad: float) -> str:
    """The bars of an hour, and its name at every third."""
    at, base = one["hour"][11:16], 12 + ABOVE
    told = f"{at} UTC: {size(one['bytes_ok'])}, {size(one['rate'])}/s"
    told += f", {one['files_ok']} good, {one['files_bad']} failed"
    up, down = part * ABOVE, bad * BELOW
    box = f'x="{left + 1.5:.1f}" width="{step - 3:.1f}"'
    name = ""
    if int(at[:2]) % 3 == 0:
        name = f'<text class="hour" x="{left + step / 2:.1f}" y="{base + BELOW + 16}">{at}</text>'
    return (
        f"<g><title>{told}</title>"
        f'<rect class="u-complete" {box} y="{base - up:.1f}" height="{up:.1f}"/>'
        f'<rect class="s-failed" {box} y="{base:.1f}" height="{down:.1f}"/>{name}</g>'
    )


# --- the links as a picture --------------------------------------------------------------------------

Place = tuple[float, float]


def fabric(sites: Sequence[Mapping[str, Any]], links: Sequence[Mapping[str, Any]]) -> str:
    """Sites by tier, T0 at the top, and the ways between them: one line for all links of a pair of sites.

    Its colour and dashes are the worst state among them; it is wider, with the rate beside it, while
    anything goes over it.
    """
    places, (wide, high) = _places(untangled(sites, links))
    home = {se["name"]: site["name"] for site in sites for se in site["storage"]}
    pairs = _pairs(drawn(links), home)
    labelled = len(pairs) <= LABELLED
    lines = [_line(found, places[a], places[b], labelled) for (a, b), found in sorted(pairs.items())]
    nodes = [_node(site, places[site["name"]]) for site in sites]
    bad = sum(one["state"] != "OPEN" for one in links)
    told = f"{len(sites)} sites, {len(links)} links, {bad} of them not open; the table below lists them"
    return (
        f'<svg class="fabric" width="{1.15 * wide:.0f}" viewBox="0 0 {wide:.0f} {high:.0f}" role="img" '
        f'aria-label="{told}">'
        f"{''.join(lines)}{''.join(nodes)}</svg>"
    )


def _places(sites: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Place], Place]:
    """The centre of each site's node by its name, and the size of the picture; a tier of many takes rows."""
    tiers: dict[int, list[str]] = defaultdict(list)
    for site in sites:
        tiers[site["tier"]].append(site["name"])
    rows = [part for tier in sorted(tiers) for part in _rows(tiers[tier])]
    width = max((len(row) for row in rows), default=1) * (NODE_W + GAP_X)
    places: dict[str, Place] = {}
    for level, row in enumerate(rows):
        step = width / len(row)
        # Every second node stands a little lower, so that lines between neighbours are seen.
        for n, name in enumerate(row):
            places[name] = (step * (n + 0.5), 30.0 + level * (NODE_H + GAP_Y) + (n % 2) * 14)
    return places, (float(width), max(1.0, len(rows)) * (NODE_H + GAP_Y) - GAP_Y + 34)


def _rows(names: Sequence[str]) -> list[Sequence[str]]:
    """As few rows as hold them, of nearly the same length."""
    count = -(-len(names) // ROW_MAX)
    length = -(-len(names) // count)
    return [names[start : start + length] for start in range(0, len(names), length)]


def _pairs(
    links: Sequence[Mapping[str, Any]], home: Mapping[str, str]
) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Links by the two sites they join, whichever way; those within a site are left out."""
    pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for one in links:
        ends = sorted((home.get(one["src"], ""), home.get(one["dst"], "")))
        if ends[0] and ends[0] != ends[1]:
            pairs[ends[0], ends[1]].append(one)
    return pairs


#: The worst first.
_WORST = ("PARKED", "DISABLED", "PROBING", "OPEN")


def _line(links: Sequence[Mapping[str, Any]], start: Place, end: Place, labelled: bool) -> str:
    state = min((one["state"] for one in links), key=lambda one: _WORST.index(one) if one in _WORST else 0)
    active = sum(one["active"] for one in links)
    rate = sum((one["rate_mb_s"] or 0.0) * one["active"] for one in links)
    told = "; ".join(map(_told, links))
    kind = f"link l-{state.lower()}" + (" busy" if active else "")
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    label = ""
    if labelled and rate:
        label = f'<text class="rate" x="{x:.1f}" y="{y - 3:.1f}">{rate:.3g} MB/s</text>'
    return (
        f'<g class="{kind}"><title>{escape(told)}</title>'
        f'<path d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"/>{label}</g>'
    )


def _told(one: Mapping[str, Any]) -> str:
    rate = "no rate yet" if one["rate_mb_s"] is None else f"{one['rate_mb_s']:g} MB/s a stream"
    return f"{one['src']} to {one['dst']}: {words(one['state'])}, {rate}, {one['queued']} queued"


def _node(site: Mapping[str, Any], place: Place) -> str:
    x, y = place
    stores = len(site["storage"])
    below = f"{stores} storage element{'' if stores == 1 else 's'}" if stores else "no storage"
    off = site["state"] != "ENABLED" or any(one["state"] != "ENABLED" for one in site["storage"])
    return (
        f'<g class="{"node off" if off else "node"}"><title>{escape(site["name"])}: {below}</title>'
        f'<rect x="{x - NODE_W / 2:.1f}" y="{y - NODE_H / 2:.1f}" width="{NODE_W}" height="{NODE_H}" rx="9"/>'
        f'<text x="{x:.1f}" y="{y - 3:.1f}">{escape(site["name"])}</text>'
        f'<text class="small" x="{x:.1f}" y="{y + 13:.1f}">{below}</text></g>'
    )
