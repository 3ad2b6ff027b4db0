"""Serving: which endpoints' leases a ProdAgent should hold: several share them, none hoards. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def part(
    names: Iterable[str],
    me: str,
    owners: Mapping[str, str | None],
    agents: Collection[str],
) -> list[str]:
    """The leases one agent wants: what it holds up to its equal part, then what no living agent holds.

    `names` are the leases of the endpoints it reaches, `owners` who holds each, `agents` the owners alive,
    itself among them as `me`. What it holds beyond its part is not wanted, and so given back for the others.
    One that finds nothing stands by for all.
    """
    ordered = sorted(names)
    most = -(-len(ordered) // max(1, len(agents)))
    mine = [name for name in ordered if owners.get(name) == me][:most]
    free = [name for name in ordered if owners.get(name) != me and owners.get(name) not in agents]
    return mine + free[: most - len(mine)] or ordered
