"""Merge ROOT files that hold the same trees into one; the entries of the tree `event` are the events."""

from __future__ import annotations

import os
from typing import Any

import payload

TREE = "event"


def main() -> None:
    job = payload.job()
    output, inputs = job.output(), job.read_inputs()
    entries = merge(inputs, f"{output}.part")
    verify(f"{output}.part", entries)
    os.replace(f"{output}.part", output)
    payload.report(job, events=entries[TREE], events_read=entries[TREE])


def merge(inputs: list[payload.Input], path: str) -> dict[str, int]:
    """Write all entries of all trees in input order; returns the number of entries of each tree."""
    import uproot

    expected = tree_types(inputs[0])
    entries = dict.fromkeys(expected, 0)
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        merged = {name: file.mktree(name, types) for name, types in expected.items()}
        for source in inputs:
            found = tree_types(source)
            if found != expected:
                raise payload.Failure(payload.INPUTS_DIFFER, f"{source.lfn} {difference(expected, found)}")
            for name, types in expected.items():
                entries[name] += append(merged[name], source, name, types)
    return entries


def append(merged: Any, source: payload.Input, name: str, types: dict[str, Any]) -> int:
    """Copy one tree of one input chunk by chunk, so that memory stays flat; returns its entries."""
    with payload.open_tree(source.name, name) as tree:
        copied = 0
        for chunk in payload.chunks(source, tree, list(types)):
            merged.extend({branch: chunk[branch] for branch in types})
            copied += len(chunk)
        if copied != tree.num_entries:
            raise payload.Failure(
                payload.CANNOT_READ, f"{source.lfn} gave {copied} of {tree.num_entries} entries"
            )
        return copied


def verify(path: str, entries: dict[str, int]) -> None:
    """Open what was written. Raises Failure unless each tree has all its entries."""
    for name, expected in entries.items():
        with payload.open_tree(path, name) as tree:
            if tree.num_entries != expected:
                raise payload.Failure(
                    payload.CANNOT_WRITE,
                    f"{path} came out with {tree.num_entries} of {expected} entries in {name}",
                )


def tree_types(source: payload.Input) -> dict[str, dict[str, Any]]:
    """Each tree's branches with the type uproot writes them as; counters of jagged branches are made anew."""
    with payload.open_tree(source.name, TREE) as event:
        source.check(event.num_entries)
        file = event.file
        names = [key for key, kind in file.root_directory.classnames(cycle=False).items() if kind == "TTree"]
        return {name: branch_types(source, file.root_directory[name]) for name in names}


def branch_types(source: payload.Input, tree: Any) -> dict[str, Any]:
    """Each branch's type: a numpy one, or `var * float32` where jagged. Raises Failure for other kinds."""
    import uproot

    counters = {branch.count_branch.name for branch in tree.branches if branch.count_branch is not None}
    types: dict[str, Any] = {}
    for branch in tree.branches:
        kind = branch.interpretation
        if branch.name in counters:
            continue
        if (
            isinstance(kind, uproot.AsJagged)
            and isinstance(kind.content, uproot.AsDtype)
            and not kind.header_bytes
        ):
            types[branch.name] = f"var * {kind.content.to_dtype.newbyteorder('=')}"
        elif isinstance(kind, uproot.AsDtype) and kind.to_dtype.names is None:
            types[branch.name] = kind.to_dtype.newbyteorder("=")
        else:
            raise payload.Failure(
                payload.INPUTS_DIFFER, f"{source.lfn}: branch {branch.name} ({kind}) cannot be merged"
            )
    return types


def difference(first: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> str:
    """In words, what the second file has otherwise."""
    for name in sorted(first.keys() ^ other.keys()):
        return f"{'lacks' if name in first else 'alone has'} the tree {name}"
    for name in first:
        for branch in sorted(first[name].keys() | other[name].keys()):
            was, now = first[name].get(branch), other[name].get(branch)
            if was != now:
                return f"has {now} as branch {name}.{branch}, the files before it {was}"
    return "differs"


if __name__ == "__main__":
    payload.run(main)
