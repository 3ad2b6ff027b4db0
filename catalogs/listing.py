"""Lists of files to import, CSV or one JSON object a line: read by portions, each fault with its line. Pure.

Columns: lfn, bytes, adler32 (eight hexadecimal digits) or checksum (`adler32:...`), and where known events,
runs (`7:1-9 8:5` in CSV, {"7": [[1, 9]]} in JSON), parents (LFNs, in CSV between blanks) and dataset.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from catalogs.filebatch import COUNT_MAX, FileBatch, NewFile, Runs, batch_of, check, merged
from gridcore.errors import GridError, UsageError
from gridcore.ids import check_dataset, check_lfn

#: Bytes of a line, and files of a portion, which is one transaction.
LINE_MAX, PORTION = 100_000, 10_000
#: Parents and lumi ranges that one portion may have in all: they are rows too.
ROWS_MAX = 100_000
COLUMNS = ("lfn", "bytes", "adler32", "checksum", "events", "runs", "parents", "dataset")

_KIND = "adler32:"
_HEX = re.compile(r"[0-9a-fA-F]{8}")
_NUMBER = re.compile(r"[0-9]{1,16}")
_RUN = re.compile(r"([0-9]{1,16}):([0-9]{1,16})(?:-([0-9]{1,16}))?")


class Fault(NamedTuple):
    """What is wrong, and where: a line of a list, or a name."""

    where: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Files of one dataset, "" where the list does not name it, that are registered at once.

    `where` tells of each file where it was found; `parents` are (place, LFN): all of them registered before
    or in an earlier portion.
    """

    dataset: str
    batch: FileBatch
    where: Sequence[str]
    parents: Sequence[tuple[int, str]] = ()


class Line(NamedTuple):
    """A file as a line says it."""

    file: NewFile
    dataset: str
    parents: tuple[str, ...]


# --- portions ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Gathering:
    """Files that become one portion, each name once; `most` of them."""

    most: int = PORTION
    files: dict[str, tuple[NewFile, str]] = field(default_factory=dict)
    parents: list[tuple[str, str]] = field(default_factory=list)
    dataset: str = ""
    rows: int = 0

    def fits(self, line: Line) -> bool:
        """Whether the next line may be in the same portion: parents go into an earlier one."""
        if not self.files:
            return True
        full = len(self.files) >= self.most or self.rows >= ROWS_MAX
        return not full and line.dataset == self.dataset and self.files.keys().isdisjoint(line.parents)

    def add(self, line: Line, where: str) -> Fault | None:
        """Take it in; a fault where another content was given for its name."""
        self.dataset = line.dataset
        old, first = self.files.setdefault(line.file.lfn, (line.file, where))
        if first == where:
            self.parents += [(line.file.lfn, parent) for parent in line.parents]
            self.rows += len(line.parents) + sum(map(len, line.file.runs.values()))
        elif (old.bytes, old.adler32) != (line.file.bytes, line.file.adler32):
            return Fault(where, f"{line.file.lfn} is given at {first} with another content")
        return None

    def portion(self) -> Iterator[Portion | Fault]:
        """What was gathered, or the faults of files that cannot be registered."""
        if not self.files:
            return
        batch, _ = batch_of(one for one, _ in self.files.values())
        where = [told for _, told in self.files.values()]
        try:
            check(batch)
        except GridError:
            yield from _faults(batch, where)
        else:
            place = {lfn: number for number, lfn in enumerate(self.files)}
            parents = [(place[lfn], parent) for lfn, parent in self.parents]
            yield Portion(dataset=self.dataset, batch=batch, where=where, parents=parents)


def _faults(batch: FileBatch, where: Sequence[str]) -> Iterator[Fault]:
    for place, told in enumerate(where):
        try:
            check(batch.at([place]))
        except GridError as error:
            yield Fault(told, error.message)


def gathered(lines: Iterable[tuple[str, Line | Fault]], most: int = PORTION) -> Iterator[Portion | Fault]:
    """Portions of what is found, with the faults among them; (where, what) goes in."""
    now = Gathering(most)
    for where, line in lines:
        if isinstance(line, Fault):
            yield line
            continue
        if not now.fits(line):
            yield from now.portion()
            now = Gathering(most)
        if fault := now.add(line, where):
            yield fault
    yield from now.portion()


# --- lists -------------------------------------------------------------------------------------------------


def parse(lines: Iterable[bytes]) -> Iterator[Portion | Fault]:
    """The portions of a list, its lines as they are in the file, and the faults of lines among them.

    A line longer than LINE_MAX may come in pieces, only the last of which ends it.
    A line that begins with `{` in front makes it a list of JSON objects, else the first names the columns.
    """
    return gathered(_read(lines))


def _read(lines: Iterable[bytes]) -> Iterator[tuple[str, Line | Fault]]:
    read: Callable[[str], Mapping[str, Any]] | None = None
    number, cut = 0, False
    for raw in lines:
        if cut:  # the rest of a line that is too long
            cut = not raw.endswith(b"\n")
            continue
        number, cut = number + 1, len(raw) > LINE_MAX and not raw.endswith(b"\n")
        where = f"line {number}"
        try:
            text = _text(raw)
            if not text:
                continue
            if read is None:
                read = _json if text.startswith("{") else _header(text)
                if read is not _json:
                    continue
            yield where, _line(read(text))
        except GridError as error:
            yield where, Fault(where, error.message)
            if read is None:  # without its columns nothing else can be read
                return


def _text(raw: bytes) -> str:
    if len(raw) > LINE_MAX:
        raise UsageError(f"it is longer than {LINE_MAX:,} bytes")
    try:
        return raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UsageError("it is not UTF-8") from None


def _header(text: str) -> Callable[[str], Mapping[str, Any]]:
    names = _cells(text)
    if unknown := [name for name in names if name not in COLUMNS]:
        raise UsageError(
            f"there is no column {unknown[0]!r}; the first line names some of {', '.join(COLUMNS)}"
        )
    if len(set(names)) < len(names):
        raise UsageError("it names a column twice")
    if not {"lfn", "bytes"} <= set(names):
        raise UsageError("it names no column lfn, or none of bytes")

    def read(line: str) -> Mapping[str, Any]:
        cells = _cells(line)
        if len(cells) != len(names):
            raise UsageError(f"it has {len(cells)} values for {len(names)} columns")
        found: dict[str, Any] = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
        if "parents" in found:
            found["parents"] = found["parents"].split()
        if "runs" in found:
            found["runs"] = _runs_of(found["runs"])
        return found

    return read


def _cells(text: str) -> list[str]:
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise UsageError("it is not CSV") from None
    return [cell.strip() for cell in row]


def _runs_of(text: str) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    for part in text.split():
        match = _RUN.fullmatch(part)
        if match is None:
            raise UsageError(f"{part[:80]!r} is no range of lumis, such as 7:1-9")
        found.setdefault(match[1], []).append([int(match[2]), int(match[3] or match[2])])
    return found


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except _Twice as twice:
        raise UsageError(f"it gives {_short(twice.args[0])} twice") from None
    except (ValueError, RecursionError):
        raise UsageError("it is not JSON") from None
    if not isinstance(found, dict):
        raise UsageError("it is not a JSON object")
    if unknown := sorted(set(found) - set(COLUMNS)):
        raise UsageError(f"there is no field {unknown[0][:80]!r}; the fields are {', '.join(COLUMNS)}")
    return {name: value for name, value in found.items() if value is not None}


class _Twice(Exception):
    """A key that an object has twice."""


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(name)
        found[name] = value
    return found


def _no_number(text: str) -> None:
    raise ValueError(text)


# --- a line ------------------------------------------------------------------------------------------------


def _line(said: Mapping[str, Any]) -> Line:
    lfn = said.get("lfn")
    if not isinstance(lfn, str):
        raise UsageError("it names no lfn")
    parents = said.get("parents", [])
    if not isinstance(parents, list) or not all(isinstance(one, str) for one in parents):
        raise UsageError("its parents are no list of LFNs")
    dataset = said.get("dataset", "")
    if not isinstance(dataset, str):
        raise UsageError("its dataset is no name")
    check_lfn(lfn)
    file = NewFile(
        lfn=lfn,
        bytes=_count(said, "bytes"),
        adler32=_adler32(said),
        events=_count(said, "events") if "events" in said else None,
        runs=_runs(said.get("runs", {})),
    )
    named = tuple(dict.fromkeys(check_lfn(one) for one in parents))
    if lfn in named:
        raise UsageError(f"{lfn} is its own parent")
    return Line(file, check_dataset(dataset) if dataset else "", named)


def _count(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNT_MAX:
        raise UsageError(f"its {name} are {_short(value)}, no number from 0 to {COUNT_MAX}")
    return value


def _adler32(said: Mapping[str, Any]) -> int:
    if "adler32" in said and "checksum" in said:
        raise UsageError("it gives both adler32 and checksum")
    told = said.get("checksum", said.get("adler32"))
    if told is None:
        raise UsageError("it has no checksum: adler32, or checksum as adler32:...")
    text = told if isinstance(told, str) else ""
    if not text.startswith(_KIND) and "checksum" in said:
        text = ""  # of a kind that is not told
    if not _HEX.fullmatch(text.removeprefix(_KIND)):
        raise UsageError(f"its checksum is {_short(told)}, no adler32 of eight hexadecimal digits")
    return int(text.removeprefix(_KIND), 16)


def _runs(said: Any) -> Runs:
    found: dict[int, Sequence[tuple[int, int]]] = {}
    if not isinstance(said, dict):
        raise UsageError("its runs are no object of lists of ranges")
    for run, ranges in said.items():
        if not _NUMBER.fullmatch(run) or not isinstance(ranges, list):
            raise UsageError(f"{_short(run)} is no run with a list of ranges")
        if int(run) in found:
            raise UsageError(f"it gives run {int(run)} twice")
        found[int(run)] = merged(_range(one) for one in ranges)
    return found


def _range(said: Any) -> tuple[int, int]:
    fits = isinstance(said, list) and len(said) == 2 and all(type(one) is int for one in said)
    if not fits or not 0 <= said[0] <= said[1] <= COUNT_MAX:
        raise UsageError(f"{_short(said)} is no range of lumis, first and last")
    return said[0], said[1]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
