"""The rules in a `storage.json`, as sites publish it: for each protocol a prefix or rules. Pure.

A file describes the volumes of a site. Of the chosen one all protocols become rules of a Trivial File
Catalog, so that chains reach them; rules that lead back are made of those that lead there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.dialects import template
from catalogs.tfc.examples import backward, quoted
from catalogs.tfc.patterns import Fault
from catalogs.tfc.rules import Dialect
from gridcore.errors import NotFound, UsageError

TEXT_MAX = 1_000_000  # bytes of a storage.json
DEPTH_MAX = 30
DIGITS_MAX = 18

_HINT = (
    'a storage.json is a list of {"site": .., "volume": .., "protocols": [{"protocol": .., "prefix": ..}]}'
)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_RULE_KEYS = ("lfn", "pfn", "chain")

_Values = dict[str, str]
#: Fills the variables of a "prefix", of an "lfn" or of a "pfn": key, text, place -> text.
Fill = Callable[[str, str, str], str]


class _Entry(NamedTuple):
    """A volume of the file, and where it stands."""

    where: str
    values: Mapping[str, Any]

    def named(self, key: str) -> str:
        return _text(self.values, key, self.where)


def parse_storage_json(
    text: str | bytes,
    *,
    source: str,
    site: str | None = None,
    volume: str | None = None,
    rse: str | None = None,
    dialect: Dialect = Dialect.PHEDEX,
    fill: Fill = lambda key, text, where: text,
    strict: bool = True,
) -> TrivialCatalog:
    """The catalogue of one volume: the one named, else the one of that RSE, else the only one.

    Raises UsageError naming the source, the place and the cure, NotFound for a volume that is not there; with
    `strict=False` faulty rules are left for `lint` to list.
    """
    entry = _chosen(list(_entries(_read(text, source), source)), source, site, volume, rse)
    rules: dict[str, list[_Values]] = {"lfn-to-pfn": [], "pfn-to-lfn": []}
    for there, back in _rules(entry, dialect, fill):
        rules["lfn-to-pfn"].append(there)
        if back is not None:
            rules["pfn-to-lfn"].append(back)
    return TrivialCatalog.from_dict(rules, source=source, dialect=dialect, strict=strict)


# --- reading -----------------------------------------------------------------------------------------


def _read(text: str | bytes, source: str) -> Any:
    if len(text) > TEXT_MAX:
        raise UsageError(f"{source}: {len(text)} bytes; at most {TEXT_MAX}", hint=_HINT)
    try:
        plain = text.decode() if isinstance(text, bytes) else text
        if _depth(plain) > DEPTH_MAX:
            raise ValueError(f"nested deeper than {DEPTH_MAX}")
        return json.loads(
            plain, object_pairs_hook=_once, parse_int=_integer, parse_constant=_refused_constant
        )
    except (ValueError, RecursionError) as error:
        what = " ".join(str(error).split())[:200]
        raise UsageError(f"{source}: no well-formed JSON ({what}); correct it", hint=_HINT) from None


def _depth(text: str) -> int:
    """How deep brackets stand in one another, those within strings left out."""
    deepest = depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands there twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _refused_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _entries(document: Any, source: str) -> Iterator[_Entry]:
    for number, values in enumerate(_list(document, source), 1):
        yield _Entry(f"{source}: entry {number}", _table(values, f"{source}: entry {number}"))


def _chosen(
    entries: list[_Entry], source: str, site: str | None, volume: str | None, rse: str | None
) -> _Entry:
    of_site = [one for one in entries if site in (None, one.named("site"))]
    if volume is not None:
        found = [one for one in of_site if one.named("volume") == volume]
    else:
        of_rse = [one for one in of_site if rse is not None and one.values.get("rse") == rse]
        found = of_rse or of_site
    if len(found) == 1:
        return found[0]
    asked = " and ".join(
        f"{what} {name!r}" for what, name in (("site", site), ("volume", volume)) if name is not None
    )
    known = ", ".join(f"{one.named('site')} {one.named('volume')}" for one in entries[:20]) or "none"
    what = f"{len(found) or 'no'} entries for {asked or 'it'}"
    if found:
        raise UsageError(f"{source}: {what}", hint=f"name the volume; there are {known}")
    raise NotFound(f"{source}: {what}", hint=f"there are {known}")


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(f"{where} is no list", hint=_HINT)
    return value


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} is no table of keys", hint=_HINT)
    return value


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise UsageError(f"{where}: {key} is {'missing' if value is None else 'no text'}", hint=_HINT)
    return value


# --- rules -------------------------------------------------------------------------------------------


def _rules(entry: _Entry, dialect: Dialect, fill: Fill) -> Iterator[tuple[_Values, _Values | None]]:
    """Each rule that leads to a PFN with the one that leads back, if there can be one."""
    for number, value in enumerate(_list(entry.values.get("protocols"), f"{entry.where}: protocols"), 1):
        where = f"{entry.where}: protocol {number}"
        values = _table(value, where)
        protocol = _text(values, "protocol", where)
        if "prefix" in values:
            yield _of_prefix(protocol, fill("prefix", _text(values, "prefix", where), where), dialect)
        elif "rules" in values:
            chain = _optional(values, "chain", where)
            for line, rule in enumerate(_list(values["rules"], f"{where}: rules"), 1):
                yield _of_rule(protocol, rule, chain, f"{where}: rule {line}", dialect, fill)
        else:
            raise UsageError(f"{where} ({protocol[:40]}): neither prefix nor rules", hint=_HINT)


def _optional(values: Mapping[str, Any], key: str, where: str) -> str | None:
    return None if values.get(key) is None else _text(values, key, where) or None


def _of_prefix(protocol: str, prefix: str, dialect: Dialect) -> tuple[_Values, _Values]:
    """All names behind the prefix, which never chains; what it ends with is kept, `//` too."""
    if dialect is Dialect.WMCORE:
        return (
            _rule(protocol, "/(.*)", f"{prefix}/$1", None),
            _rule(protocol, f"{prefix}/(.*)", "/$1", None),
        )
    text = quoted(prefix) if dialect is Dialect.PHEDEX else prefix
    there = _rule(protocol, _stores("/?(.*)", dialect), f"{text}/$1", None)
    return there, _rule(protocol, f"^{re.escape(prefix)}/(.*)$", "/$1", None)


def _of_rule(
    protocol: str, value: Any, chain: str | None, where: str, dialect: Dialect, fill: Fill
) -> tuple[_Values, _Values | None]:
    values = _table(value, where)
    if unknown := [key for key in values if key not in _RULE_KEYS]:
        what = f"unknown key {unknown[0][:40]!r}; known are {', '.join(_RULE_KEYS)}"
        raise UsageError(f"{where}: {what}", hint=_HINT)
    lfn, pfn = (fill(key, _text(values, key, where), where) for key in ("lfn", "pfn"))
    chain = _optional(values, "chain", where) or chain
    pattern = lfn if chain else _stores(lfn, dialect)
    return _rule(protocol, pattern, pfn, chain), _back(protocol, lfn, pfn, chain, dialect)


def _stores(pattern: str, dialect: Dialect) -> str:
    """CMSSW takes nothing but /store/; every chain ends in a rule without one, which sees the name itself."""
    if dialect is not Dialect.CMSSW:
        return pattern
    return f"(?=/store/)(?:{pattern})" if "|" in pattern else f"(?=/store/){pattern}"


def _back(protocol: str, lfn: str, pfn: str, chain: str | None, dialect: Dialect) -> _Values | None:
    if dialect is Dialect.WMCORE:  # as it does: what of the PFN means something in a pattern is not escaped
        result = re.sub(r"\(.*\)", "$1", lfn.replace("/+", "/").replace("^/", "/"))
        return _rule(protocol, pfn.replace("$1", "(.*)"), result, chain)
    try:
        found = backward(lfn, list(_parts(pfn, dialect)))
    except Fault:  # the rule itself is at fault, and named for it
        return None
    if found is None:
        return None
    pattern, result = found
    return _rule(protocol, pattern, result if dialect is Dialect.PHEDEX else _signs(result), chain)


def _parts(pfn: str, dialect: Dialect) -> Iterable[str | int]:
    if dialect is Dialect.PHEDEX:
        return template(pfn)
    pieces = re.split(r"\$([1-9])", pfn)
    return (int(piece) if number % 2 else piece for number, piece in enumerate(pieces) if piece)


def _signs(result: str) -> str:
    """A Perl replacement as plain text with `$n`."""
    return "".join(part if isinstance(part, str) else f"${part}" for part in template(result))


def _rule(protocol: str, path_match: str, result: str, chain: str | None) -> _Values:
    values = {"protocol": protocol, "path-match": path_match, "result": result}
    return {**values, "chain": chain} if chain else values
