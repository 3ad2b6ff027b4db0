"""Draw the sum of histograms: `picture.py HIST.json... OUT` writes OUT.txt and OUT.png (or OUT.svg)."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

import payload

COLOURS = ("#1c1c1c", "#b3362b", "#d08a12", "#2f78a3")
MARKERS = ("o", "^", "s", "v")
ETA_LABEL = "pseudorapidity η"
PT_LABEL = "pT (GeV/c)"
ETA_TITLE = "dN/dη per event"
PT_TITLE = "d²N/dpT dη per event, |η| < 1 ((GeV/c)⁻¹)"


@dataclass(frozen=True, slots=True)
class Series:
    """One class of events: for eta and pT, (bin centre, density per event, statistical error) of each bin."""

    label: str
    events: int
    eta: list[tuple[float, float, float]]
    pt: list[tuple[float, float, float]]


def main() -> None:
    if len(sys.argv) < 3:
        raise payload.Failure(payload.CONFIGURATION, "usage: picture.py HIST.json... OUT_BASENAME")
    *sources, base = sys.argv[1:]
    content = payload.summed({source: payload.read_histograms(source) for source in sources})
    if not content["events"]:
        raise payload.Failure(payload.EVENTS_DIFFER, f"{sources[0]} holds no event: there is nothing to draw")
    series = series_of(content)
    title = f"{content['sample']}: charged particles of {content['events']} events"
    with open(f"{base}.txt", "w", encoding="utf-8") as stream:
        stream.write(table(title, series))
    picture = draw(title, series, base)
    print(
        json.dumps(
            {"picture": picture, "table": f"{base}.txt", "dnch_deta_mid": round(mid_rapidity(series[0]), 1)}
        )
    )


def series_of(content: dict[str, Any]) -> list[Series]:
    """All events first, then the classes that have any."""
    edges, classes = content["edges"], content["classes"]
    labelled = [("all events", classes)]
    for number, one in enumerate(classes):
        low, high = one["impact"]
        last = number == len(classes) - 1
        labelled.append((f"b > {low:g} fm" if last else f"b = {low:g}–{high:g} fm", [one]))
    result = []
    for label, members in labelled:
        events = sum(one["events"] for one in members)
        if events:
            eta = densities(edges["eta"], events, [one["eta"] for one in members], 1.0)
            pt = densities(edges["pt"], events, [one["pt"] for one in members], 2 * payload.PT_ETA_MAX)
            result.append(Series(label, events, eta, pt))
    return result


def densities(
    edges: list[float], events: int, members: list[dict[str, list[int]]], per: float
) -> list[tuple[float, float, float]]:
    """Mean per event in each bin over its width and `per`; errors from the spread between the events.

    Particles of one event come together, so the root of the count would be too small.
    """
    points = []
    for i, (low, high) in enumerate(pairwise(edges)):
        count = sum(one["counts"][i] for one in members)
        mean = count / events
        square = sum(one["squares"][i] for one in members) / events
        error = math.sqrt((square - mean**2) / (events - 1)) if events > 1 else math.sqrt(count)
        scale = (high - low) * per
        points.append(((low + high) / 2, mean / scale, error / scale))
    return points


def mid_rapidity(series: Series) -> float:
    """dN/deta at |eta| < 0.5."""
    values = [value for centre, value, _ in series.eta if abs(centre) < 0.5]
    return sum(values) / len(values)


def table(title: str, series: list[Series]) -> str:
    """Both distributions as columns of text."""
    parts = [title, ""]
    for name, head in (("eta", ETA_TITLE), ("pt", PT_TITLE)):
        parts.append(head)
        parts.append(f"{name:>8}" + "".join(f"{one.label + f' ({one.events})':>24}" for one in series))
        for rows in zip(*(getattr(one, name) for one in series), strict=True):
            cells = "".join(f"{f'{value:.4g} ± {error:.2g}':>24}" for _, value, error in rows)
            parts.append(f"{rows[0][0]:>8.3f}{cells}")
        parts.append("")
    return "\n".join(parts)


def draw(title: str, series: list[Series], base: str) -> str:
    """Write the picture and return its path."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        with open(f"{base}.svg", "w", encoding="utf-8") as stream:
            stream.write(svg(title, series))
        return f"{base}.svg"
    figure = Figure(figsize=(11, 4.9), dpi=150, layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
    left, right = figure.subplots(1, 2)
    for axes, name in ((left, "eta"), (right, "pt")):
        for number, one in enumerate(series):
            points = [point for point in getattr(one, name) if point[1] > 0]
            plot(axes, points, number, f"{one.label} ({one.events})")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e4e4", linewidth=0.7)
        axes.set_axisbelow(True)
    left.set(xlabel=r"pseudorapidity $\eta$", xlim=(-3, 3), ylim=(0, None))
    left.set_title(r"$\mathrm{d}N_\mathrm{ch}/\mathrm{d}\eta$ per event", loc="left", fontsize=11)
    right.set(xlabel=r"$p_\mathrm{T}$ (GeV/$c$)", xlim=(0, 2), yscale="log", xticks=[0, 0.5, 1, 1.5, 2])
    spectrum = r"$\mathrm{d}^2N_\mathrm{ch}/\mathrm{d}p_\mathrm{T}\,\mathrm{d}\eta$ per event, $|\eta|<1$"
    right.set_title(spectrum + r"  ((GeV/$c$)$^{-1}$)", loc="left", fontsize=11)
    right.legend(frameon=False, title="impact parameter (events)", loc="upper right")
    figure.savefig(f"{base}.png")
    return f"{base}.png"


def plot(axes: Any, points: list[tuple[float, float, float]], number: int, label: str) -> None:
    """Points with their errors in the class's colour and shape."""
    centres, values, errors = zip(*points, strict=True) if points else ((), (), ())
    style = {"color": COLOURS[number], "marker": MARKERS[number], "label": label}
    axes.errorbar(centres, values, yerr=errors, linestyle="none", markersize=4.5, elinewidth=1, **style)


def svg(title: str, series: list[Series]) -> str:
    """Both panels as an SVG of a few kB."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 470"',
        ' font-family="sans-serif" font-size="13">',
        '<rect width="1060" height="470" fill="#fff"/>',
        text(20, 28, title, 'font-size="17" font-weight="bold"'),
    ]
    top = 1.1 * max(value + error for one in series for _, value, error in one.eta)
    densities_seen = [value for one in series for _, value, _ in one.pt if value > 0]
    low, high = (f(math.log10(bound(densities_seen))) for f, bound in ((math.floor, min), (math.ceil, max)))
    step = 10 ** math.floor(math.log10(top / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if top / (factor * step) <= 6)
    linear = [(f"{i * step:g}", i * step / top) for i in range(int(top / step) + 1)]
    powers = [(f"1e{i}", (i - low) / max(1, high - low)) for i in range(low, high + 1)]
    parts += frame(70, ETA_TITLE, ETA_LABEL, [(f"{x}", (x + 3) / 6) for x in range(-3, 4)], linear)
    parts += frame(600, PT_TITLE, PT_LABEL, [(f"{x / 2:g}", x / 4) for x in range(5)], powers)
    for number, one in enumerate(series):
        colour = COLOURS[number]
        parts += points(
            70, colour, [((x + 3) / 6, (y - e) / top, y / top, (y + e) / top) for x, y, e in one.eta]
        )
        log = [
            (x / 2, logarithm(y - e, low, high), logarithm(y, low, high), logarithm(y + e, low, high))
            for x, y, e in one.pt
            if y > 0
        ]
        parts += points(600, colour, log)
        parts.append(f'<circle cx="868" cy="{96 + 20 * number}" r="4" fill="{colour}"/>')
        parts.append(text(880, 100 + 20 * number, f"{one.label} ({one.events})", ""))
    return "\n".join([*parts, "</svg>", ""])


def logarithm(value: float, low: int, high: int) -> float:
    """Where the value stands between 10^low (0) and 10^high (1), never below the axis."""
    return max(0.0, (math.log10(value) - low) / max(1, high - low)) if value > 0 else 0.0


def text(x: float, y: float, words: str, style: str) -> str:
    """One line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def frame(
    left: int, title: str, label: str, across: Iterable[tuple[str, float]], up: Iterable[tuple[str, float]]
) -> list[str]:
    """A panel of 420 x 320 at (left, 80): titles, grid and ticks; a tick is (text, place in 0..1)."""
    parts = [text(left, 66, title, ""), text(left + 210, 445, label, 'text-anchor="middle"')]
    for words, place in across:
        x = left + 420 * place
        parts.append(f'<path d="M{x:.1f} 80V400" stroke="#e4e4e4"/>')
        parts.append(text(x, 420, words, 'text-anchor="middle"'))
    for words, place in up:
        y = 400 - 320 * place
        parts.append(f'<path d="M{left} {y:.1f}h420" stroke="#e4e4e4"/>')
        parts.append(text(left - 8, y + 4, words, 'text-anchor="end"'))
    return [*parts, f'<path d="M{left} 80V400h420" fill="none" stroke="#333"/>']


def points(left: int, colour: str, values: Iterable[tuple[float, float, float, float]]) -> list[str]:
    """Points and error bars of one class: (x, low, y, high) in 0..1."""
    bars, dots = "", ""
    for x, low, y, high in values:
        across = left + 420 * x
        bars += f"M{across:.1f} {400 - 320 * low:.1f}V{400 - 320 * high:.1f}"
        dots += f"M{across:.1f} {400 - 320 * y:.1f}h0"
    style = f'stroke="{colour}" stroke-linecap="round"'
    return [f'<path d="{bars}" {style}/>', f'<path d="{dots}" {style} stroke-width="7"/>']


if __name__ == "__main__":
    payload.run(main)
