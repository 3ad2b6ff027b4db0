"""Storage elements as a directory describes them: its storage.xml and storage.json files, read, told apart.

In the rules of these and in `root`, `${TIERFLOW_DIR}` stands for the directory of the installation, filled in
rule by rule once the file is read, escaped as a pattern or a result needs it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from catalogs.sites import tfc_text
from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.examples import quoted
from catalogs.tfc.rules import Dialect, dialect_of
from catalogs.tfc.storage_json import parse_storage_json
from catalogs.tfc.storage_xml import TEXT_MAX, parse_storage_xml
from gridapp.topology.documents import StorageDocument
from gridapp.topology.files import Files, Placed, each, refer, unique
from gridapp.topology.items import StorageItem
from gridcore.errors import NotFound, UsageError

ROOT_MAX = 500
#: Different files that rules must keep apart.
_PROBES = ("/store/mc/a/1.root", "/store/mc/b/1.root", "/store/data/a/1.root", "/store/mc/a/2.root")

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _as_pattern(value: str) -> str:
    """The value as a pattern; `[:` would be taken for a POSIX class."""
    return re.escape(value).replace("[:", r"[\:")


#: What may name variables, in a storage.xml and in a storage.json.
_PATTERNS = ("path-match", "destination-match", "lfn")
_RESULTS = ("result", "pfn")


def storage_elements(
    directory: Path, variables: Mapping[str, str], files: Files, sites: Collection[str]
) -> dict[str, StorageItem]:
    """The storage elements by name. Raises UsageError."""
    placed = list(_storage(directory, variables, files, sites))
    found = unique(placed)
    _check_apart(placed)
    return found


def _storage(
    directory: Path, variables: Mapping[str, str], files: Files, sites: Collection[str]
) -> Iterator[Placed[StorageItem]]:
    for where, one in each(files, "se"):
        refer(f"{where}.site", "site", one.site, sites)
        catalog = _catalog(_inside(directory, one.storage, f"{where}.storage"), variables, one, where)
        refer(f"{where}.protocol", f"lfn-to-pfn rule in {one.storage} for", one.protocol, catalog.protocols())
        values = one.model_dump(exclude={"storage", "volume", "dialect", "root"})
        root = None if one.root is None else _root(one.root, variables, f"{where}.root")
        dialect = None if one.dialect is Dialect.PHEDEX else str(one.dialect)
        yield where, StorageItem(**values, root=root, dialect=dialect, tfc=tfc_text(catalog.to_dict()))


def _check_apart(placed: Iterable[Placed[StorageItem]]) -> None:
    """Raises UsageError where two files, at one storage element or at two, have one PFN: deleting the one
    would delete the other."""
    taken: dict[str, str] = {}
    for where, one in placed:
        dialect = dialect_of(one.dialect, one.name)
        catalog = TrivialCatalog.from_dict(json.loads(one.tfc), source=one.name, dialect=dialect)
        for lfn in _PROBES:
            with suppress(NotFound):
                pfn = catalog.pfn(lfn, one.protocol).pfn
                if pfn in taken:
                    raise UsageError(
                        f"{where}.storage: {lfn} becomes {pfn}, as does {taken[pfn]}",
                        hint="give each storage element its own directory, and keep what tells LFNs apart",
                    )
                taken[pfn] = f"{lfn} at {one.name}"


def _inside(directory: Path, name: str, where: str) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(f"{where} = {name!r} leads out of the directory", hint=f"put it below {directory}")
    return directory / path


def _catalog(path: Path, variables: Mapping[str, str], one: StorageDocument, where: str) -> TrivialCatalog:
    if one.volume is not None and path.suffix != ".json":
        raise UsageError(f"{where}.volume: a storage.xml has no volumes", hint="leave it out")
    return read_catalog(path, variables, dialect=one.dialect, site=one.site, volume=one.volume, rse=one.name)


def read_catalog(
    path: Path,
    variables: Mapping[str, str],
    *,
    dialect: Dialect = Dialect.PHEDEX,
    site: str | None = None,
    volume: str | None = None,
    rse: str | None = None,
    strict: bool = True,
) -> TrivialCatalog:
    """The catalogue in a storage.xml or storage.json with its variables filled in.

    `site`, `volume` and `rse` choose within a storage.json. Raises UsageError; with `strict=False` faulty
    rules are left for `lint` to list.
    """
    text, source = _bytes(path), str(path)
    if path.suffix == ".json":
        return parse_storage_json(
            text,
            source=source,
            site=site,
            volume=volume,
            rse=rse,
            dialect=dialect,
            fill=lambda key, value, where: _filled(value, variables, where, _escape(key, dialect)),
            strict=strict,
        )
    raw = parse_storage_xml(text, source=source, strict=False).to_dict()
    rules = {
        kind: [
            _rule_filled(rule, variables, f"{path}: {kind} rule {number}", dialect)
            for number, rule in enumerate(listed, 1)
        ]
        for kind, listed in raw.items()
    }
    return TrivialCatalog.from_dict(rules, source=source, dialect=dialect, strict=strict)


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file", hint="write it, or correct the key storage")
        if path.stat().st_size > TEXT_MAX:
            raise UsageError(f"{path} is larger than {TEXT_MAX} bytes", hint="use fewer rules")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="check its permissions") from None


def _escape(key: str, dialect: Dialect) -> Callable[[str], str]:
    """How a value is escaped in an attribute of a rule, or under a key of a storage.json."""
    if key in _PATTERNS:
        return _as_pattern
    return quoted if key in _RESULTS and dialect is Dialect.PHEDEX else str


def _rule_filled(
    rule: Mapping[str, str], variables: Mapping[str, str], where: str, dialect: Dialect
) -> dict[str, str]:
    filled = {
        name: _filled(rule[name], variables, f"{where}: {name}", _escape(name, dialect))
        for name in (*_PATTERNS, *_RESULTS)
        if name in rule
    }
    return {**rule, **filled}


def _root(text: str, variables: Mapping[str, str], where: str) -> str:
    root = _filled(text, variables, where, str)
    if not os.path.isabs(root) or len(root) > ROOT_MAX:
        raise UsageError(
            f"{where} = {root!r} is no absolute path of at most {ROOT_MAX} characters",
            hint="begin with / or ${TIERFLOW_DIR}",
        )
    return os.path.normpath(root)


def _filled(text: str, variables: Mapping[str, str], where: str, escape: Callable[[str], str]) -> str:
    def value(match: re.Match[str]) -> str:
        refer(where, "variable", match[1], variables)
        return escape(variables[match[1]])

    return _VARIABLE.sub(value, text)
