"""What a change would do, as faces show it: names for keys, sentences for reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from datamgmt import reasons
from datamgmt.previews.preview import Comparison, Preview
from datamgmt.previews.projection import Caution
from datamgmt.previews.rooms import Room
from gridapp.insights.values import some


def preview(found: Preview, names: Mapping[int, str]) -> dict[str, Any]:
    """A preview as JSON; `names` of the storage elements by id.

    {copied, removed: {blocks, files, bytes}, there, under_way, still_open, by_source: {SE: bytes},
    by_link: {"A -> B": bytes}, hours, hours_most, rooms: [{se, site, group, limit, before, after}],
    warnings: [sentence]}
    """
    return {
        "copied": asdict(found.copied),
        "removed": asdict(found.removed),
        "there": found.there,
        "under_way": found.under_way,
        "still_open": found.still_open,
        "by_source": {names[one]: n for one, n in found.by_source.items()},
        "by_link": {f"{names[src]} -> {names[dst]}": n for (src, dst), n in found.by_link.items()},
        "hours": _rounded(found.hours),
        "hours_most": _rounded(found.hours_most),
        "rooms": [_room(one, names) for one in found.rooms],
        "warnings": warnings(found.cautions, names),
    }


def comparison(found: Comparison, names: Mapping[int, str]) -> dict[str, Any]:
    """{before, after: previews, changed: {"A -> B": bytes more or less}, warnings: [new sentences]}."""
    before, after = preview(found.before, names), preview(found.after, names)
    links = before["by_link"].keys() | after["by_link"].keys()
    differ = {
        one: after["by_link"].get(one, 0) - before["by_link"].get(one, 0)
        for one in sorted(links)
        if before["by_link"].get(one, 0) != after["by_link"].get(one, 0)
    }
    new = [one for one in after["warnings"] if one not in before["warnings"]]
    return {"before": before, "after": after, "changed": differ, "warnings": new}


def warnings(cautions: Iterable[Caution], names: Mapping[int, str]) -> list[str]:
    """What stands in the way, in sentences, and of how many blocks."""
    return [_warning(one, names) for one in cautions]


def _warning(one: Caution, names: Mapping[int, str]) -> str:
    told = reasons.render(one.code, one.params, names)
    return f"{some(one.blocks, 'block')}: {told}" if one.blocks else told


def _room(one: Room, names: Mapping[int, str]) -> dict[str, Any]:
    return {"se": names[one.se_id], **{key: value for key, value in asdict(one).items() if key != "se_id"}}


def _rounded(hours: float | None) -> float | None:
    return None if hours is None else round(hours, 2)
