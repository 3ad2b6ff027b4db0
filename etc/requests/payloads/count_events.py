"""Print as JSON how many events each FILE holds, by opening it: a ROOT tree, toy text or histograms."""

from __future__ import annotations

import json
import sys

import payload


def main() -> None:
    if not sys.argv[1:]:
        raise payload.Failure(payload.CONFIGURATION, "usage: count_events.py FILE...")
    print(json.dumps({path: events_in(path) for path in sys.argv[1:]}))


def events_in(path: str) -> int:
    """The events in one file, by its first bytes' kind."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise payload.Failure(payload.CANNOT_OPEN, f"{path} does not open: {error.strerror}") from error
    if start == b"root":
        with payload.open_tree(path) as tree:
            return int(tree.num_entries)
    if start.startswith(b"{"):
        return int(payload.read_histograms(path)["events"])
    return sum(1 for _ in payload.text_lines(path))


if __name__ == "__main__":
    payload.run(main)
