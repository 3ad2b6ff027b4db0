"""Which tool reaches a storage element. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from catalogs.sites import Link, StorageElement
from datamgmt.tools.base import TransferTool


def reaching(
    element: StorageElement, links: Sequence[Link], tools: Mapping[str, TransferTool]
) -> TransferTool | None:
    """The tool named after the SE's protocol, else one its links use, else the only one there is."""
    by_links = [link.tool for link in links if element.id in (link.src_se_id, link.dst_se_id)]
    only = list(tools) if len(tools) == 1 else []
    return next((tools[name] for name in [element.protocol, *by_links, *only] if name in tools), None)
