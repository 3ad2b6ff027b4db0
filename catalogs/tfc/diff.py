"""What another Trivial File Catalog would change: PFNs one by one, or summed over what an SE holds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from catalogs.tfc.catalog import TrivialCatalog
from gridcore.errors import GridError

#: How many changed names a preview shows.
SAMPLES = 10


class Side(NamedTuple):
    """A catalogue and the protocol to ask it for."""

    catalog: TrivialCatalog
    protocol: str


class Change(NamedTuple):
    """An LFN whose PFN is another one, or None, with the one rules or the other."""

    lfn: str
    old: str | None
    new: str | None


class Held(NamedTuple):
    """A file that stands for its block at a storage element, and what is in that block."""

    lfn: str
    files: int
    bytes: int


@dataclass(slots=True)
class Amount:
    """Blocks, and what is in them."""

    blocks: int = 0
    files: int = 0
    bytes: int = 0

    def add(self, one: Held) -> None:
        """One block more."""
        self.blocks += 1
        self.files += one.files
        self.bytes += one.bytes


@dataclass(slots=True)
class Preview:
    """What new rules would do to what is there: `moved` would be looked for elsewhere, `lost` nowhere."""

    held: Amount = field(default_factory=Amount)
    moved: Amount = field(default_factory=Amount)
    lost: Amount = field(default_factory=Amount)
    samples: list[Change] = field(default_factory=list)


def changes(old: Side, new: Side, lfns: Iterable[str]) -> Iterator[Change]:
    """The LFNs, in their order, that the two name differently."""
    before, after = _asked(old), _asked(new)
    for lfn in lfns:
        change = Change(lfn, before(lfn), after(lfn))
        if change.old != change.new:
            yield change


def preview(old: Side, new: Side, held: Iterable[Held]) -> Preview:
    """What becomes of blocks, each judged by one of its files."""
    before, after = _asked(old), _asked(new)
    found = Preview()
    for one in held:
        change = Change(one.lfn, before(one.lfn), after(one.lfn))
        found.held.add(one)
        if change.old is None or change.old == change.new:
            continue
        (found.lost if change.new is None else found.moved).add(one)
        if len(found.samples) < SAMPLES:
            found.samples.append(change)
    return found


def _asked(side: Side) -> Callable[[str], str | None]:
    resolve = side.catalog.resolver(side.protocol)

    def ask(lfn: str) -> str | None:
        try:
            return resolve(lfn)
        except GridError:
            return None

    return ask
