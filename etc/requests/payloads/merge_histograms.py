"""Add up histogram files that have the same bins and classes."""

from __future__ import annotations

from typing import Any

import payload


def main() -> None:
    job = payload.job()
    output = job.output()
    total = payload.summed({source.lfn: read(source) for source in job.read_inputs()})
    payload.write_json(output, total)
    payload.report(job, events=total["events"], events_read=total["events"])


def read(source: payload.Input) -> dict[str, Any]:
    """A histogram file, its number of events checked."""
    content = payload.read_histograms(source.name)
    source.check(content["events"])
    return content


if __name__ == "__main__":
    payload.run(main)
