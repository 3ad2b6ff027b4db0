"""Merge toy files by concatenation: whole sections, each with its header and footer."""

from __future__ import annotations

import os
import shutil

import payload


def main() -> None:
    job = payload.job()
    output, inputs = job.output(), job.read_inputs()
    events = 0
    with open(f"{output}.part", "wb") as merged:
        # An empty section of its own: the salt makes each attempt's file differ, as ROOT files do.
        merged.write(f"# toy 1 salt {job.salt}\n# end 0\n".encode())
        for source in inputs:
            events += sum(1 for _ in payload.event_lines(source))
            with open(source.name, "rb") as stream:
                shutil.copyfileobj(stream, merged)
    os.replace(f"{output}.part", output)
    payload.report(job, events=events, events_read=events)


if __name__ == "__main__":
    payload.run(main)
