"""Fair share: who gets the next cores, in a tree of collaboration, group, role and user.

At each level the child with the lowest key goes first: cores it runs over the share it should have, where
past use moves that share by a factor c at most. A child below its floor goes before all others, one at its
cap after them. Children without work drop out, so that what they leave goes to their siblings before it goes
to their cousins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from math import fsum, inf, isfinite

from gridcore.errors import UsageError

CLAMP = 1.25  # 1 ignores past use; at 2 a group back from a day off takes half the farm
#: Floors written as decimals may miss the sum of 1 by this much.
ROUNDING = 1e-9


@dataclass(slots=True, kw_only=True)
class ShareNode:
    """A node of the tree: its target, in any unit, is weighed against its siblings'.

    `running` (cores leased or running) and `used` (decayed core-seconds) count at the leaves; an inner node
    has the sums of its leaves, whatever its own fields say. `floor` and `cap` are parts, 0 to 1, of the cores
    its siblings and itself run. `weight` multiplies the target, for a site with a weight of its own.
    `child_target` is what a leaf made by itself below it gets; `half_life_s` of past use counts at a root.
    (Not frozen, because every claim makes one for each node, and that would take it twice as long.)
    """

    id: int
    parent: int | None
    path: str
    target: float
    running: float = 0.0
    used: float = 0.0
    floor: float | None = None
    cap: float | None = None
    weight: float = 1.0
    child_target: float | None = None
    half_life_s: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Ready, eligible work of a leaf."""

    jobs: int
    cores_per_job: float = 1.0

    def __post_init__(self) -> None:
        if self.cores_per_job <= 0:
            raise UsageError(f"a job of {self.cores_per_job} cores", hint="a job takes more than 0 cores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a node stands among its siblings.

    `target_norm` and `used_norm` are its parts of the targets and of the use of those in the race, `part` its
    part of the cores they and all other siblings run. `place` is 1 for the one served first; place and key
    are None for one that is not in the race, key also where the target is 0.
    """

    id: int
    path: str
    target_norm: float
    running: float
    part: float
    used: float
    used_norm: float
    key: float | None
    place: int | None
    why: str


def decayed(used: float, seconds: float, half_life: float) -> float:
    """What is left of `used` after so many seconds. Raises UsageError for a half-life of 0 or less."""
    if half_life <= 0:
        raise UsageError(f"a half-life of {half_life} s", hint="give more than 0 s; a day is 86400")
    return float(used * 2.0 ** (-max(0.0, seconds) / half_life))


def divide(nodes: Iterable[ShareNode], waiting: Mapping[int, Waiting], n: int, c: float = CLAMP) -> list[int]:
    """The leaf ids of the next `n` picks, in order, as if picked one by one; fewer if work runs out.

    Each pick charges its job's cores to the leaf and all above it. Work waiting on anything but a leaf of
    the tree is not picked.
    """
    top = _grow(nodes, waiting, c)
    return [top.pick().node.id for _ in range(min(n, top.jobs))]


def explain(nodes: Iterable[ShareNode], waiting: Mapping[int, Waiting], c: float = CLAMP) -> list[Standing]:
    """The standing of every node, parents before children, siblings in the order they are served."""
    return _standings(_grow(nodes, waiting, c))


# --- what is a tree ---------------------------------------------------------------------------------------


def check_tree(nodes: Iterable[ShareNode]) -> None:
    """Raises UsageError naming the first node that makes this no tree of shares."""
    nodes = list(nodes)
    by_id = {node.id: node for node in nodes}
    if len(by_id) < len(nodes) or len({node.path for node in nodes}) < len(nodes):
        raise UsageError("two shares have the same id or path", hint="name each share once")
    siblings: dict[int | None, list[ShareNode]] = defaultdict(list)
    for node in nodes:
        _check_values(node)
        _check_bounds(node)
        _check_above(node, by_id)
        siblings[node.parent].append(node)
    for members in siblings.values():
        _check_siblings(members)


def _check_values(node: ShareNode) -> None:
    for what, value in (("target", node.target), ("target for new users", node.child_target)):
        if value is not None and (not isfinite(value) or value < 0):
            raise UsageError(f"share {node.path} has the {what} {value}", hint="a target is 0 or more")
    if not isfinite(node.weight) or node.weight < 0:
        raise UsageError(f"share {node.path} has the weight {node.weight} at a site", hint="0 or more")
    half_life = node.half_life_s
    if half_life is None:
        return
    if node.parent is not None:
        raise UsageError(
            f"share {node.path} has a half-life", hint="one holds for a whole tree: set it on the root"
        )
    if not isfinite(half_life) or half_life <= 0:
        raise UsageError(
            f"share {node.path} has a half-life of {half_life} s", hint="give more than 0 s; a day is 86400"
        )


def _check_bounds(node: ShareNode) -> None:
    for what, value in (("floor", node.floor), ("cap", node.cap)):
        if value is not None and not 0 <= value <= 1:
            raise UsageError(
                f"share {node.path} has the {what} {value}", hint="a part of the siblings' cores, 0 to 1"
            )
    if node.floor is not None and node.cap is not None and node.floor > node.cap:
        raise UsageError(
            f"share {node.path} has the floor {node.floor} above its cap {node.cap}",
            hint="a floor is the least it gets, a cap the most",
        )


def _check_above(node: ShareNode, by_id: Mapping[int, ShareNode]) -> None:
    above, seen = node, {node.id}
    while above.parent is not None:
        if above.parent not in by_id:
            raise UsageError(f"share {above.path} has an unknown parent", hint="define the parent as well")
        if above.parent in seen:
            raise UsageError(
                f"share {node.path} is below itself", hint="one share of the ring needs another parent"
            )
        above = by_id[above.parent]
        seen.add(above.id)


def _check_siblings(members: Sequence[ShareNode]) -> None:
    names = ", ".join(sorted(node.path for node in members))
    if not any(node.target for node in members):
        raise UsageError(f"the targets of {names} are all 0", hint="give one of them a target above 0")
    floors = fsum(node.floor or 0.0 for node in members)
    if floors > 1 + ROUNDING:
        raise UsageError(
            f"the floors of {names} sum to {floors:g}", hint="siblings cannot be promised more than 1 in all"
        )


# --- the tree at work -------------------------------------------------------------------------------------

#: Order of siblings before their keys count.
BELOW_FLOOR, BETWEEN, AT_CAP, OUT = range(4)


class _Branch:
    """A node at work: its sums, and those of its children that have work, ready to be picked from.

    Every claim picks, so this saves what it can: children that run nothing have the key 0 whatever their
    share, and wait in `idle` by path; only without those are shares weighed, and the others wait in `busy` by
    key. The few with a floor or cap are looked at one by one.
    """

    __slots__ = (
        *("bounded", "busy", "children", "clamp", "cores", "idle", "jobs", "node", "racing", "running"),
        *("stale", "target", "use", "used", "weighed", "wish"),
    )

    def __init__(self, node: ShareNode, children: list[_Branch], own: Waiting | None, clamp: float) -> None:
        self.node = node
        self.children = children
        self.wish = node.target * node.weight
        self.target = self.use = self.weighed = 0.0
        self.cores = own.cores_per_job if own is not None and own.jobs > 0 else 0.0
        if not children:
            self.jobs: int = max(0, own.jobs) if own is not None else 0
            self.running: float = node.running
            self.used: float = node.used
            return
        self.clamp = clamp
        self.running = fsum([child.running for child in children])
        self.used = fsum([child.used for child in children])
        self.racing = [child for child in children if child.jobs]
        self.jobs = sum([child.jobs for child in self.racing])
        self._line_up()

    def _line_up(self) -> None:
        racing = self.racing
        self.bounded = [one for one in racing if one.node.floor or one.node.cap is not None]
        free = [one for one in racing if one not in self.bounded] if self.bounded else racing
        self.idle = sorted(
            [(child.node.path, child) for child in free if not child.running and child.wish > 0], reverse=True
        )
        # Keys are made when they are needed.
        self.busy = [(0.0, child.node.path, child) for child in free if child.running or child.wish <= 0]
        self.stale = True

    def rank(self, total: float) -> int:
        """Where it stands before keys count, among siblings that run `total` cores in all."""
        if not self.jobs:
            return OUT
        floor, cap = self.node.floor, self.node.cap
        if floor is not None and self.running < floor * total:
            return BELOW_FLOOR
        if cap is not None and cap < 1 and self.running >= cap * total:
            return AT_CAP
        return BETWEEN

    def key(self) -> float:
        """run / (t * clamp(t/u, 1/c, c)), the lowest goes first; the factor is c where nothing was used."""
        return self.running / self.weighed if self.weighed > 0 else inf

    def weigh(self) -> None:
        """Give the children that have work their parts of the targets and of the use, and order the busy."""
        racing = self.racing = [child for child in self.racing if child.jobs]
        targets = fsum([child.wish for child in racing])
        used = fsum([child.used for child in racing])
        most, least = self.clamp, 1 / self.clamp
        for child in racing:
            target = child.target = child.wish / targets if targets else 1 / len(racing)
            use = child.use = child.used / used if used else 0.0
            ratio = target / use if use > 0 else most
            child.weighed = target * (most if ratio > most else least if ratio < least else ratio)
        self.busy = [(child.key(), path, child) for _, path, child in self.busy]
        heapify(self.busy)
        self.stale = False

    def pick(self) -> _Branch:
        """Take one job out of this branch, which has one; the leaf it was taken from."""
        self.jobs -= 1
        if not self.children:
            self.running += self.cores
            return self
        leaf = self._pick_bounded() if self.bounded else self._pick_idle() if self.idle else self._pick_busy()
        self.running += leaf.cores
        return leaf

    def _pick_idle(self) -> _Branch:
        path, child = self.idle.pop()
        leaf = child.pick()
        if not child.jobs:
            self.stale = True
        elif self.stale:
            self.busy.append((0.0, path, child))
        else:
            heappush(self.busy, (child.key(), path, child))
        return leaf

    def _pick_busy(self) -> _Branch:
        if self.stale:
            self.weigh()
        _, path, child = self.busy[0]
        leaf = child.pick()
        if child.jobs:
            heapreplace(self.busy, (child.key(), path, child))
        else:
            heappop(self.busy)
            self.stale = True
        return leaf

    def _pick_bounded(self) -> _Branch:
        if self.stale:
            self.weigh()
        total = self.running
        entries = [(child.rank(total), child.key(), child.node.path, child) for child in self.bounded]
        rank, least, path, child = min(entries)
        if self.idle and (BETWEEN, 0.0, self.idle[-1][0]) < (rank, least, path):
            return self._pick_idle()
        if not self.idle and self.busy and (BETWEEN, *self.busy[0][:2]) < (rank, least, path):
            return self._pick_busy()
        leaf = child.pick()
        if not child.jobs:
            self.bounded.remove(child)
            self.stale = True
        return leaf


def _grow(nodes: Iterable[ShareNode], waiting: Mapping[int, Waiting], clamp: float) -> _Branch:
    """The tree under one nameless top; its sums are exact, and so the same in any order of the input."""
    below: dict[int | None, list[ShareNode]] = defaultdict(list)
    for node in nodes:
        below[node.parent].append(node)

    def branch(node: ShareNode) -> _Branch:
        children = [branch(child) for child in below[node.id]] if node.id in below else []
        return _Branch(node, children, waiting.get(node.id), clamp)

    roots = [branch(root) for root in below[None]]
    top = ShareNode(id=-1, parent=None, path="", target=1.0)
    return _Branch(top, roots, None, clamp)


# --- telling ----------------------------------------------------------------------------------------------


def _standings(branch: _Branch) -> list[Standing]:
    if not branch.children:
        return []
    branch.weigh()
    rows = []
    ahead = ""
    total = branch.running
    order = sorted(branch.children, key=lambda child: (child.rank(total), child.key(), child.node.path))
    for place, child in enumerate(order, 1):
        rows.append(_standing(child, place, ahead, total))
        rows += _standings(child)
        ahead = child.node.path
    return rows


def _standing(branch: _Branch, place: int, ahead: str, total: float) -> Standing:
    value = branch.key()  # infinite where the target is 0, as it is for a child that dropped out
    return Standing(
        id=branch.node.id,
        path=branch.node.path,
        target_norm=branch.target,
        running=branch.running,
        part=branch.running / total if total else 0.0,
        used=branch.used,
        used_norm=branch.use,
        key=value if isfinite(value) else None,
        place=place if branch.jobs else None,
        why=_why(branch, ahead, total),
    )


def _why(branch: _Branch, ahead: str, total: float) -> str:
    node = branch.node
    if branch.children and branch.cores:
        return "work waits on this share itself, but only a share without children is served: move it to one"
    if not branch.jobs:
        return "has no work that can run now; its share goes to its siblings"
    after = f"comes after {ahead}" if ahead else "goes first"
    rank = branch.rank(total)
    runs = f"it runs {branch.running:g} of {total:g} cores"
    if rank == BELOW_FLOOR:
        return f"{after}: {runs}, below its floor of {node.floor:.1%}"
    if rank == AT_CAP:
        return f"{after}: {runs} and is at its cap of {node.cap:.1%}, served when no other sibling has work"
    if not branch.target:
        return "has the target 0: served when no sibling has work"
    if not ahead:
        return "goes first"
    return f"comes after {ahead}: {branch.running:g} cores run for a share of {branch.target:.1%}"
