"""From LFN to PFN: a chain of three protocols, and all PFNs of a dataset."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from statistics import median

from catalogs import sites
from catalogs.filebatch import NewFile, batch_of
from catalogs.tfc import samples
from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.rules import Rule
from gridapp.bench.backlog import settle
from gridapp.bench.data_grid import data_grid
from gridapp.bench.ground import Ground
from gridapp.bench.measure import Arm, Figure
from gridcore.db import Database
from gridcore.db.statements import chunks

#: An SRM in front of a gate in front of a file system.
DATA, GATE, DOOR = "/pnfs/alder.org/data/store/", "/dcache", "srm://srm.alder.org:8443/srm/managerv2?SFN="
PROTOCOL = "srm"
CHAIN = (
    Rule("direct", "/+store/(.*)", f"{DATA}$1"),
    Rule("gate", "/+(.*)", f"{GATE}/$1", chain="direct"),
    Rule(PROTOCOL, "(.*)", rf"{DOOR.replace('?', chr(92) + '?')}$1", chain="gate"),
)
#: Names of a turn, at most.
NAMES_MAX = 100_000
FILES_OF_DIR = 1000
#: What WMCore's TrivialFileCatalog does of such a chain in a second, on a machine like this one; three times
#: that are asked for.
WMCORE = 127_000
#: The dataset whose PFNs are asked for, how often, and how long that may take, in seconds.
DATASET = "/TTbar/Spring26-v1/AODSIM"
DATASET_FILES = 10_000
BLOCK_FILES = 500
TURNS = 7
PFNS_S = 0.05

Translate = Callable[[str], str | None]


def chain(ground: Ground) -> list[Figure]:
    """One name after the other through three protocols; the limit are regular expressions written by hand.

    `vs_wmcore` holds the same figure against what WMCore does.
    """
    names = _names(min(ground.rows, NAMES_MAX))
    ours = TrivialCatalog("bench", CHAIN).resolver(PROTOCOL)
    hand = by_hand()
    arms = {"ours": _rate(ours, names), "limit": _rate(hand, names)}
    found = ground.compare("tfc", "names/s", arms, rows=len(names))
    rival = ground.figure("vs_wmcore", found.figure, "names/s", WMCORE, rows=len(names))
    return [found, rival]


def by_hand() -> Translate:
    """The chain as somebody would write it who needs no other: three patterns, no check of any name."""
    direct, gate, door = (re.compile(rule.path_match).match for rule in CHAIN)

    def translate(lfn: str) -> str | None:
        match = direct(lfn)
        if match is None:
            return None
        match = gate(DATA + match[1])
        if match is None:
            return None
        match = door(f"{GATE}/{match[1]}")
        return None if match is None else DOOR + match[1]

    return translate


def _rate(translate: Translate, names: Sequence[str]) -> Arm:
    def turn() -> float:
        began = time.perf_counter()
        for lfn in names:
            translate(lfn)
        return len(names) / (time.perf_counter() - began)

    return turn


def _names(n: int) -> list[str]:
    return [
        f"/store/mc/Spring26/TTbar/AODSIM/v1/{i // FILES_OF_DIR:04}/{i * 2654435761 % 2**32:08x}-{i:06}.root"
        for i in range(n)
    ]


def pfns(ground: Ground) -> Figure:
    """Seconds for all PFNs of a dataset of 10,000 files, read from the database; the limit is 0.05."""
    database, dataset_id = _dataset(ground)
    ground.say(f"measuring {ground.bench} pfns")
    took = []
    for _ in range(TURNS):
        began = time.perf_counter()
        with database.snapshot() as conn:
            element = sites.storage_elements(conn)[0]
            lfns = samples.of_dataset(conn, dataset_id)
        found = element.catalog.pfns(lfns, element.protocol)
        took.append(time.perf_counter() - began)
        if len(found) != DATASET_FILES:
            raise AssertionError(f"{len(found)} PFNs of {DATASET_FILES} files")
    return ground.figure("pfns", median(took), "s", PFNS_S, rows=DATASET_FILES, less_is_better=True)


def _dataset(ground: Ground) -> tuple[Database, int]:
    """A database with the dataset at one storage element."""
    grid = data_grid(ground, DATASET, BLOCK_FILES, CHAIN, PROTOCOL)
    files = [NewFile(lfn=lfn, bytes=10**9, adler32=1, events=1000) for lfn in _names(DATASET_FILES)]
    for few in chunks(files, FILES_OF_DIR):
        grid.put(batch_of(few)[0])
    settle(grid.database)
    return grid.database, grid.dataset_id
