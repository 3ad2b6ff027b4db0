"""Fair share: who gets the next cores, in a tree of collaboration, group, role and user.

At each level the child with the lowest key goes first: cores it runs over the share it should have, where
past use moves that share by a factor c at most. Children without work drop out, so that what they leave
goes to their siblings before it goes to their cousins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from math import fsum, inf, isfinite

from gridcore.errors import UsageError

CLAMP = 1.25  # 1 ignores past use; at 2 a group back from a day off takes half the farm


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareNode:
    """A node of the tree: its target, in any unit, is weighed against its siblings'.

    `running` (cores leased or running) and `used` (decayed core-seconds) count at the leaves;
    an inner node has the sums of its leaves, whatever its own fields say.
    """

    id: int
    parent: int | None
    path: str
    target: float
    running: float = 0.0
    used: float = 0.0


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
    """Where a node stands among its siblings; key is None for one that is not in the race."""

    path: str
    target_norm: float
    running: float
    used_norm: float
    key: float | None
    why: str


def decayed(used: float, seconds: float, half_life: float) -> float:
    """What is left of `used` after so many seconds. Raises UsageError for a half-life of 0 or less."""
    if half_life <= 0:
        raise UsageError(f"a half-life of {half_life} s", hint="give more than 0 s; a day is 86400")
    return float(used * 2.0 ** (-max(0.0, seconds) / half_life))


def key(target_norm: float, running: float, used_norm: float, c: float = CLAMP) -> float:
    """run / (t * clamp(t/u, 1/c, c)), the lowest goes first; the factor is c where nothing was used."""
    if target_norm <= 0:
        return inf
    factor = c if used_norm <= 0 else min(c, max(1 / c, target_norm / used_norm))
    return running / (target_norm * factor)


def divide(nodes: Iterable[ShareNode], waiting: Mapping[int, Waiting], n: int, c: float = CLAMP) -> list[int]:
    """The leaf ids of the next `n` picks, in order, as if picked one by one; fewer if work runs out.

    Each pick charges its job's cores to the leaf and all above it. Work waiting on anything but a leaf of
    the tree is not picked.
    """
    top = _grow(nodes, waiting, c)
    picks: list[int] = []
    while len(picks) < n and top.jobs:
        picks.append(top.pick())
    return picks


def explain(nodes: Iterable[ShareNode], waiting: Mapping[int, Waiting], c: float = CLAMP) -> list[Standing]:
    """The standing of every node, parents before children, siblings in the order they are served."""
    return _standings(_grow(nodes, waiting, c))


def check_tree(nodes: Iterable[ShareNode]) -> None:
    """Raises UsageError naming the first node that makes this no tree of shares."""
    nodes = list(nodes)
    by_id = {node.id: node for node in nodes}
    if len(by_id) < len(nodes) or len({node.path for node in nodes}) < len(nodes):
        raise UsageError("two shares have the same id or path", hint="name each share once")
    siblings: dict[int | None, list[ShareNode]] = defaultdict(list)
    for node in nodes:
        _check_node(node, by_id)
        siblings[node.parent].append(node)
    for members in siblings.values():
        if not any(node.target for node in members):
            names = ", ".join(sorted(node.path for node in members))
            raise UsageError(f"the targets of {names} are all 0", hint="give one of them a target above 0")


def _check_node(node: ShareNode, by_id: Mapping[int, ShareNode]) -> None:
    if not isfinite(node.target) or node.target < 0:
        raise UsageError(f"share {node.path} has the target {node.target}", hint="a target is 0 or more")
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


class _Branch:
    """A node at work: its sums, and those of its children that have work in a heap by key."""

    __slots__ = ("children", "clamp", "cores", "heap", "jobs", "node", "running", "target", "use", "used")

    def __init__(self, node: ShareNode, children: list[_Branch], own: Waiting | None, clamp: float) -> None:
        leaf = not children
        self.node = node
        self.children = children
        self.clamp = clamp
        self.cores = own.cores_per_job if own and own.jobs > 0 else 0.0
        self.jobs: int = max(0, own.jobs) if leaf and own else sum(child.jobs for child in children)
        self.running: float = node.running if leaf else fsum(child.running for child in children)
        self.used: float = node.used if leaf else fsum(child.used for child in children)
        self.target = self.use = 0.0
        self.heap: list[tuple[float, str, _Branch]] = []
        self._normalise()

    def _normalise(self) -> None:
        """Give the children that have work their normalised targets and uses, and order them."""
        racing = [child for child in self.children if child.jobs]
        targets = fsum(child.node.target for child in racing)
        used = fsum(child.used for child in racing)
        for child in racing:
            child.target = child.node.target / targets if targets else 1 / len(racing)
            child.use = child.used / used if used else 0.0
        self.heap = [child.entry() for child in racing]
        heapify(self.heap)

    def key(self) -> float:
        return key(self.target, self.running, self.use, self.clamp)

    def entry(self) -> tuple[float, str, _Branch]:
        return self.key(), self.node.path, self

    def pick(self) -> int:
        """Take one job out of this branch: the id of its leaf."""
        self.jobs -= 1
        if not self.children:
            self.running += self.cores
            return self.node.id
        child = self.heap[0][2]
        before = child.running
        leaf = child.pick()
        self.running += child.running - before
        if child.jobs:
            heapreplace(self.heap, child.entry())
        else:
            heappop(self.heap)
            self._normalise()
        return leaf


def _grow(nodes: Iterable[ShareNode], waiting: Mapping[int, Waiting], clamp: float) -> _Branch:
    """The tree under one nameless top; in the order of paths, so that sums never depend on the input's."""
    below: dict[int | None, list[ShareNode]] = defaultdict(list)
    for node in sorted(nodes, key=lambda node: node.path):
        below[node.parent].append(node)

    def branch(node: ShareNode) -> _Branch:
        return _Branch(node, [branch(child) for child in below[node.id]], waiting.get(node.id), clamp)

    top = ShareNode(id=-1, parent=None, path="", target=1.0)
    return _Branch(top, [branch(root) for root in below[None]], None, clamp)


def _standings(branch: _Branch) -> list[Standing]:
    rows = []
    ahead = ""
    for child in sorted(branch.children, key=lambda child: (child.key(), child.node.path)):
        rows.append(_standing(child, ahead))
        rows += _standings(child)
        ahead = child.node.path
    return rows


def _standing(branch: _Branch, ahead: str) -> Standing:
    value = branch.key()  # infinite where the target is 0, as it is for a child that dropped out
    return Standing(
        path=branch.node.path,
        target_norm=branch.target,
        running=branch.running,
        used_norm=branch.use,
        key=value if isfinite(value) else None,
        why=_why(branch, ahead),
    )


def _why(branch: _Branch, ahead: str) -> str:
    if branch.children and branch.cores:
        return "work waits on this share itself, but only a share without children is served: move it to one"
    if not branch.jobs:
        return "has no work that can run now; its share goes to its siblings"
    if not branch.target:
        return "has the target 0: served when no sibling has work"
    if not ahead:
        return "goes first"
    return f"comes after {ahead}: {branch.running:g} cores run for a share of {branch.target:.1%}"
