"""What applying one topology to another would change. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from catalogs.states import Switch
from gridapp.topology.items import EndpointItem, Item, LinkItem, SiteItem, StorageItem, Topology
from gridapp.topology.writer import document_of


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the files and the database."""

    kind: str
    name: str
    action: Literal["add", "change", "remove"]
    detail: str = ""


def settled(new: Topology, old: Topology) -> Topology:
    """The new topology, where what it says nothing about is as it was."""
    before = old.kinds()
    kinds = {
        kind: {name: _settled_item(item, before[kind].get(name)) for name, item in items.items()}
        for kind, items in new.kinds().items()
    }
    return Topology(**kinds)  # type: ignore[arg-type]


def _settled_item(item: Item, old: Any) -> Item:
    match item:
        case SiteItem(state=None) | LinkItem(state=None):
            state, note = (old.state, old.note) if old else (Switch.ENABLED, None)
            return replace(item, state=state, note=item.note or note)
        case StorageItem(state=None) | EndpointItem(state=None):
            return replace(item, state=old.state if old else Switch.ENABLED)
    return item


def merged(new: Topology, old: Topology, prune: bool) -> Topology:
    """What will be there once the new topology is applied: with `prune` nothing else, without it the
    old as well."""
    if prune:
        return new
    before = old.kinds()
    kinds = {kind: {**before[kind], **items} for kind, items in new.kinds().items()}
    return Topology(**kinds)  # type: ignore[arg-type]


def difference(old: Topology, new: Topology, prune: bool) -> list[Change]:
    """Additions and changes from sites up, then removals from retry rules down, what is below before what is
    above."""
    before = old.kinds()
    changes = [
        change
        for kind, items in new.kinds().items()
        for name, item in items.items()
        if (change := _compared(kind, before[kind].get(name), item))
    ]
    gone = [
        Change(kind, name, "remove")
        for kind, items in reversed(new.kinds().items())
        for name in sorted(before[kind], reverse=True)
        if name not in items
    ]
    return changes + gone if prune else changes


def _compared(kind: str, old: Item | None, new: Item) -> Change | None:
    if old == new:
        return None
    if old is None:
        return Change(kind, new.name, "add")
    before, after = document_of(old), document_of(new)
    told = [
        f"{key}: {_written(before.get(key))} -> {_written(after.get(key))}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]
    return Change(kind, new.name, "change", "; ".join(told) or "other storage rules")


def _written(value: Any) -> str:
    """A value as people write it: `a, b` for a list, `a = 1, b = (2, 3)` for a table."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.15g}"
        case Mapping():
            return ", ".join(f"{key} = {_within(one)}" for key, one in value.items()) or "none"
        case list() | tuple():
            return ", ".join(map(_within, value)) or "none"
    return str(value)


def _within(value: Any) -> str:
    """The same within a list or table, where its own commas are set apart."""
    text = _written(value)
    return f"({text})" if isinstance(value, Mapping | list | tuple) else text


def summary(changes: Sequence[Change]) -> str:
    """Such as `3 added, 1 changed, 0 removed`."""
    words = {"add": "added", "change": "changed", "remove": "removed"}
    return ", ".join(
        f"{sum(one.action == action for one in changes)} {word}" for action, word in words.items()
    )
