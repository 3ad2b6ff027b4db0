"""Withdrawals: which attempts waiting in a batch system go back to the queue, for work the shares put first.

An attempt that has not started may be withdrawn; one that runs never is. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from prodsys.shares import fairshare
from prodsys.shares.fairshare import ShareNode, Waiting


def plan(
    nodes: Iterable[ShareNode],
    waiting: Mapping[int, Waiting],
    unstarted: Mapping[int, Sequence[str]],
    cores: Mapping[int, float],
) -> list[str]:
    """The keys of the attempts to withdraw, the last sent of a leaf first.

    `waiting` is the work in the queue that the site could run, `unstarted` the keys sent there that have not
    begun, oldest first, `cores` what one job of a leaf takes; all by leaf. The slots of the unstarted are
    dealt out anew: where a leaf that runs nothing and waits would get some, as many are taken from those who
    would lose them.
    """
    nodes = list(nodes)
    sent = {leaf_id: len(keys) for leaf_id, keys in unstarted.items() if keys}
    running = {node.id: node.running for node in nodes}
    starving = {leaf_id for leaf_id in waiting if not sent.get(leaf_id) and not running.get(leaf_id)}
    if not sent or not starving:
        return []
    dealt = Counter(_deal(nodes, waiting, sent, cores))
    gained = sum(n for leaf_id, n in dealt.items() if leaf_id in starving)
    taken: list[str] = []
    for leaf_id, n in sorted(sent.items(), key=lambda pair: dealt[pair[0]] - pair[1]):
        surplus = min(n - dealt[leaf_id], gained - len(taken))
        if surplus > 0:
            taken += list(reversed(unstarted[leaf_id]))[:surplus]
    return taken


def _deal(
    nodes: Iterable[ShareNode],
    waiting: Mapping[int, Waiting],
    sent: Mapping[int, int],
    cores: Mapping[int, float],
) -> list[int]:
    """Who would get the slots of the unstarted, were these back in the queue."""
    without = [
        replace(node, running=max(0.0, node.running - sent[node.id] * cores[node.id]))
        if node.id in sent
        else node
        for node in nodes
    ]
    asking = dict(waiting)
    for leaf_id, n in sent.items():
        jobs = waiting[leaf_id].jobs if leaf_id in waiting else 0
        asking[leaf_id] = Waiting(jobs + n, cores[leaf_id])
    return fairshare.divide(without, asking, sum(sent.values()))
