"""Translating names for people: whose rules, which protocol, which names; what other rules would change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import Connection

from catalogs.sites import StorageElement
from catalogs.tfc import samples
from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.diff import Change, Side, changes, preview
from catalogs.tfc.rules import Dialect
from gridapp import naming
from gridapp.topology.storage import read_catalog
from gridcore.errors import GridError, UsageError

SUFFIXES = (".xml", ".json")
#: Names in one list, and characters of a line.
NAMES_MAX = 1_000_000
LINE_MAX = 10_000
#: Changed names that a comparison shows.
SHOWN = 1000

#: Answers a question from one snapshot of the installation's database.
Ask = Callable[[Callable[[Connection], Any]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What chooses within a source, which chooses itself where it is None; `directory` fills variables."""

    directory: str
    protocol: str | None = None
    dialect: Dialect | None = None
    site: str | None = None
    volume: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Rules to translate with; `element` is the storage element whose they are, None for those of a file."""

    catalog: TrivialCatalog
    element: StorageElement | None
    protocol: str | None

    def side(self) -> Side:
        """The rules with their protocol. Raises UsageError where one of several must be named."""
        protocols = self.catalog.protocols()
        chosen = self.protocol or (protocols[0] if len(protocols) == 1 else None)
        if chosen is None:
            known = ", ".join(protocols) or "none"
            raise UsageError(
                f"{self.catalog.source} has {len(protocols)} protocols",
                hint=f"name one with --protocol: {known}",
            )
        return Side(self.catalog, chosen)


def source(ask: Ask, name: str, choice: Choice, *, strict: bool = True) -> Source:
    """The rules in a file, if the name ends as one, else those of a storage element.

    Raises UsageError, and NotFound for a storage element that is not there.
    """
    if name.endswith(SUFFIXES):
        return Source(_of_file(Path(name), choice, choice.site, None, strict), None, choice.protocol)
    element: StorageElement = ask(lambda conn: naming.element(conn, name))
    catalog = element.catalog
    if choice.dialect is not None:
        catalog = TrivialCatalog.from_dict(
            catalog.to_dict(), source=name, dialect=choice.dialect, strict=strict
        )
    return Source(catalog, element, choice.protocol or element.protocol)


def _of_file(path: Path, choice: Choice, site: str | None, rse: str | None, strict: bool) -> TrivialCatalog:
    return read_catalog(
        path,
        {"TIERFLOW_DIR": choice.directory},
        dialect=choice.dialect or Dialect.PHEDEX,
        site=site,
        volume=choice.volume,
        rse=rse,
        strict=strict,
    )


# --- names -------------------------------------------------------------------------------------------


def listed(names: Iterable[str], lists: Iterable[TextIO]) -> list[str]:
    """The names, and those of the lists, one a line, empty lines left out. Raises UsageError."""
    found = list(names)
    for one in lists:
        found += _lines(one)
    return found


def _lines(stream: TextIO) -> Iterator[str]:
    number = 0
    try:
        while line := stream.readline(LINE_MAX + 1):
            number += 1
            if len(line) > LINE_MAX or number > NAMES_MAX:
                most = f"{LINE_MAX} characters" if len(line) > LINE_MAX else f"{NAMES_MAX} lines"
                raise UsageError(f"{stream.name}: line {number}: at most {most}", hint="split the list")
            if name := line.strip("\r\n"):
                yield name
    except UnicodeDecodeError:
        raise UsageError(
            f"{stream.name}: after line {number}: no text", hint="write names in ASCII"
        ) from None


def directories(ask: Ask) -> list[str]:
    """An LFN of each directory of the catalogue."""
    found: list[str] = ask(samples.of_directories)
    return found


# --- verbs -------------------------------------------------------------------------------------------


def translated(name: str, act: Callable[[str], dict[str, Any]], kept: Sequence[str]) -> dict[str, Any]:
    """What `act` says of the name, or why it says nothing, under the same keys."""
    try:
        return {**act(name), "error": None}
    except GridError as error:
        return {**dict.fromkeys(kept), kept[0]: name, "error": error.message}


def compared(old: Side, new: Side, lfns: Iterable[str]) -> tuple[list[dict[str, Any]], int]:
    """The first changes as records, and how many there are."""
    shown, n = [], 0
    for n, one in enumerate(changes(old, new, lfns), 1):
        if n <= SHOWN:
            shown.append(_change(one))
    return shown, n


def previewed(ask: Ask, name: str, file: Path, choice: Choice) -> dict[str, Any]:
    """What the file would change for what lies at the storage element: blocks, files and bytes.

    Raises UsageError, NotFound.
    """
    element: StorageElement = ask(lambda conn: naming.element(conn, name))
    site: str = ask(lambda conn: naming.site_of(conn, element))
    catalog = _of_file(file, choice, choice.site or site, name, strict=True)
    old, new = Side(element.catalog, element.protocol), Side(catalog, choice.protocol or element.protocol)
    found = preview(old, new, ask(lambda conn: samples.held(conn, element.id)))
    return {
        "se": name,
        "protocol": new.protocol,
        "held": asdict(found.held),
        "moved": asdict(found.moved),
        "lost": asdict(found.lost),
        "samples": [_change(one) for one in found.samples],
    }


def _change(one: Change) -> dict[str, Any]:
    return {"lfn": one.lfn, "old": one.old, "new": one.new}
