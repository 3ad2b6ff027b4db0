"""Invent plausible Au+Au events without any package: the same events for the same seed, as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from random import Random

import payload

IMPACT_MAX = 15.0  # fm
CENTRAL = 620.0  # charged particles of a head-on event
SLOPE = 0.19  # GeV/c
ETA_WIDTH = 1.55
# PDG code and share of each kind; the neutral ones come on top of the charged.
KINDS = {211: 0.30, -211: 0.33, 2212: 0.29, 321: 0.06, -321: 0.02, 111: 0.35, 2112: 0.35}


def main() -> None:
    job = payload.job()
    numbers = range(job.first_event, job.first_event + job.wanted_events())
    events = payload.write_text(job.output(), job.salt, lines(job.seed, numbers))
    payload.report(job, events=events)


def lines(seed: int, numbers: range) -> Iterator[str]:
    """One JSON object per event."""
    for number in numbers:
        yield json.dumps(event(Random(f"{seed} {number}"), number), separators=(",", ":"))


def event(random: Random, number: int) -> dict[str, object]:
    """An event: impact (fm) as on a disc, multiplicity falling with it, thermal pT (GeV/c)."""
    impact = IMPACT_MAX * math.sqrt(random.random())
    charged = CENTRAL * (1 - (impact / IMPACT_MAX) ** 2) ** 1.5
    mean = charged * sum(KINDS.values())
    count = max(2, round(random.gauss(mean, math.sqrt(2 * mean))))
    return {
        "event": number,
        "impact": round(impact, 3),
        "pdgid": random.choices(list(KINDS), list(KINDS.values()), k=count),
        "pt": [
            round(-SLOPE * math.log((1 - random.random()) * (1 - random.random())), 4) for _ in range(count)
        ],
        "eta": [round(random.gauss(0, ETA_WIDTH), 3) for _ in range(count)],
    }


if __name__ == "__main__":
    payload.run(main)
