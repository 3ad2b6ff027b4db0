"""The files of a topology's directory: their tables with where each stands, and what refers to what."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gridapp.installation import SETTINGS_FILE
from gridapp.topology.documents import GridDocument
from gridapp.topology.items import Item
from gridcore.documents import checked, read_toml
from gridcore.errors import UsageError

#: The settings of an installation may lie beside its topology and are none of it.
GRID_FILE = "grid.toml"

T = TypeVar("T", bound=Item)
Files = Sequence[tuple[Path, GridDocument]]
Placed = tuple[str, T]
"""An item and where it stands: `etc/embedded/grid.toml: site.2`."""


def read_files(directory: Path) -> Files:
    """The checked documents of a directory. Raises UsageError."""
    paths = topology_files(directory)
    if not paths:
        raise UsageError(f"{directory} holds no topology", hint=f"write a {GRID_FILE} as in etc/embedded")
    return [(path, checked(GridDocument, read_toml(path), str(path))) for path in paths]


def topology_files(directory: Path) -> list[Path]:
    """The TOML files of a directory that are read."""
    return sorted(path for path in directory.glob("*.toml") if path.name != SETTINGS_FILE)


def each(files: Files, kind: str) -> Iterator[tuple[str, Any]]:
    """The documents of a kind, each with where it stands."""
    for path, document in files:
        for number, one in enumerate(getattr(document, kind), 1):
            yield f"{path}: {kind}.{number}", one


def unique(placed: Iterable[Placed[T]]) -> dict[str, T]:
    """The items by name. Raises UsageError for a name that comes twice."""
    found: dict[str, T] = {}
    for where, item in placed:
        if item.name in found:
            raise UsageError(f"{where}: {item.name!r} is there already", hint="drop one of the two")
        found[item.name] = item
    return found


def refer(where: str, what: str, name: str, known: Collection[str]) -> None:
    """Raises UsageError unless the name is known."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known)) or 'none'}"
        raise UsageError(f"{where}: there is no {what} {name!r}", hint=cure)


def refer_all(where: str, what: str, names: Iterable[str], known: Collection[str]) -> frozenset[str]:
    """The names, each once. Raises UsageError unless all are known."""
    found = frozenset(names)
    for name in sorted(found):
        refer(where, what, name, known)
    return found
