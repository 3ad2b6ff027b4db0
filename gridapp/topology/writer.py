"""Writes a topology as the directory that `gridapp.topology.reader` reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.rules import dialect_of
from catalogs.tfc.storage_xml import to_xml
from gridapp.topology.files import GRID_FILE, topology_files
from gridapp.topology.items import (
    AccountItem,
    AgentItem,
    Item,
    PolicyItem,
    RetryItem,
    ShareItem,
    SiteSetItem,
    StorageItem,
    Topology,
)
from gridcore.errors import UsageError

_CATALOGS = "tfc"


def write_topology(topology: Topology, directory: Path) -> list[Path]:
    """Write grid.toml and tfc/<SE>.xml; the paths. Raises UsageError where other files lie."""
    others = [path.name for path in topology_files(directory) if path.name != GRID_FILE]
    if others:
        raise UsageError(
            f"{directory} holds another topology: {', '.join(others)}", hint="name an empty directory"
        )
    texts = {directory / _catalog_path(name): to_xml(_catalog(one)) for name, one in topology.se.items()}
    texts[directory / GRID_FILE] = to_toml(topology)
    try:
        (directory / _CATALOGS).mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            _write(path, text)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}", hint="name a writable directory") from None
    return list(texts)


def to_toml(topology: Topology) -> str:
    """The text of grid.toml."""
    return "\n".join(
        "\n".join([f"[[{kind}]]", *_lines(document_of(items[name])), ""])
        for kind, items in topology.kinds().items()
        for name in sorted(items)
    )


def document_of(item: Item) -> dict[str, Any]:
    """The item as its table in the file, without what is not set."""
    values = asdict(item)
    match item:
        case StorageItem():
            values = {key: value for key, value in values.items() if key != "tfc"}
            values["storage"] = _catalog_path(item.name)
        case ShareItem():
            del values["name"]
            values = {"group": item.name, **values, "weights": dict(item.weights) or None}
        case SiteSetItem():
            values["sites"] = sorted(item.sites)
        case AgentItem():
            values["endpoints"] = sorted(item.endpoints)
        case PolicyItem():
            rule = {key: value for key, value in item.rule().items() if value != []}
            values = {"name": item.name, "rank": item.rank, **rule}
        case AccountItem():
            roles = {scope: sorted(held) for scope, held in item.roles_by_scope().items()}
            values = {
                "name": item.name,
                "login": item.login or None,
                "groups": sorted(item.groups),
                "roles": roles,
            }
        case RetryItem():
            values = {**asdict(item.rule), "bigger": item.rule.bigger or "none"}
    return {key: value for key, value in values.items() if value is not None}


def _catalog(one: StorageItem) -> TrivialCatalog:
    read = dialect_of(one.dialect, one.name)
    return TrivialCatalog.from_dict(json.loads(one.tfc), source=one.name, dialect=read)


def _catalog_path(name: str) -> str:
    return f"{_CATALOGS}/{name}.xml"


def _write(path: Path, text: str) -> None:
    """All of the file or nothing."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            pairs = ", ".join(f"{_toml(str(key))} = {_toml(one)}" for key, one in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case list():
            return f"[{', '.join(_toml(one) for one in value)}]"
    return repr(value)
