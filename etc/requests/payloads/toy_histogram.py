"""Fill dN/deta and pT histograms of charged particles from reduced toy events."""

from __future__ import annotations

import json

import payload


def main() -> None:
    job = payload.job()
    output = job.output()
    histograms = payload.Histograms("toy model")
    for source in job.read_inputs():
        for line in payload.event_lines(source):
            event = json.loads(line)
            pairs = zip(event["pt"], event["eta"], strict=True)
            central = [pt for pt, eta in pairs if abs(eta) < payload.PT_ETA_MAX]
            histograms.add(event["impact"], eta=filled(event["eta"], "eta"), pt=filled(central, "pt"))
    events = histograms.write(output)
    payload.report(job, events=events, events_read=events)


def filled(values: list[float], name: str) -> list[int]:
    """How many of the values fall into each bin of the quantity's histogram."""
    low, high, bins = payload.HISTOGRAMS[name]
    counts = [0] * bins
    for value in values:
        if low <= value < high:
            counts[int((value - low) / (high - low) * bins)] += 1
    return counts


if __name__ == "__main__":
    payload.run(main)
