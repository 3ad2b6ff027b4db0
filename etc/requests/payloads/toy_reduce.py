"""Keep of each toy event its impact parameter and its charged particles: pT, eta and their number."""

from __future__ import annotations

import json

import payload

NEUTRAL = {111, 2112}


def main() -> None:
    job = payload.job()
    output, inputs = job.output(), job.read_inputs()
    events = payload.write_text(
        output, job.salt, (reduced(line) for source in inputs for line in payload.event_lines(source))
    )
    payload.report(job, events=events, events_read=events)


def reduced(line: str) -> str:
    """The reduced event of an event, both as JSON."""
    event = json.loads(line)
    particles = zip(event["pdgid"], event["pt"], event["eta"], strict=True)
    kept = [(pt, eta) for code, pt, eta in particles if code not in NEUTRAL]
    short = {"event": event["event"], "impact": event["impact"], "nch": len(kept)}
    columns = {"pt": [pt for pt, _ in kept], "eta": [eta for _, eta in kept]}
    return json.dumps(short | columns, separators=(",", ":"))


if __name__ == "__main__":
    payload.run(main)
