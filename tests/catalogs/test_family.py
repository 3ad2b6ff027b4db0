"""Families of datasets: none is made from itself, whoever writes at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from catalog_grid import ALDER, NOW, Grid, at_once
from sqlalchemy import Connection, text

from catalogs import parentage, registration
from catalogs.filebatch import NewFile
from gridcore.errors import Busy, Conflict


class Ring:
    """Datasets with a file each, of which each could be made from the next, the last from the first."""

    def __init__(self, grid: Grid, name: str, n: int) -> None:
        self.grid = grid
        self.name = name
        self.ids = [grid.make_dataset(f"/{name}/v{number}/RAW") for number in range(n)]
        self.files = [self._register(number, "first", ()) for number in range(n)]

    def _register(self, number: int, what: str, parents: Sequence[int]) -> int:
        lfn = f"/store/{self.name}/{what}{number}"
        one = NewFile(lfn=lfn, bytes=1, adler32=1, parents=tuple(parents))
        return self.grid.register(one, dataset_id=self.ids[number])[0]

    def make_from_next(self, number: int) -> bool:
        """Whether it could be made from the next."""
        try:
            self._register(number, "child", [self.files[(number + 1) % len(self.ids)]])
        except (Conflict, Busy):
            return False
        return True

    def circles(self) -> list[int]:
        return [one for one in self.ids if one in self.grid.read(parentage.ancestors, [one])]


@pytest.mark.parametrize("length", [2, 3, 4, 6, 7])
def test_nobody_closes_a_circle_with_others(grid: Grid, length: int) -> None:
    """Every other step is there before; the rest come at once."""
    for number in range(4):
        ring = Ring(grid, f"ring{number}", length)
        before, late = range(1, length, 2), range(0, length, 2)
        assert all(ring.make_from_next(one) for one in before)
        done = at_once(len(late), lambda one, ring=ring, late=late: ring.make_from_next(late[one]))  # type: ignore[misc]
        assert ring.circles() == []
        assert not all(done)


def test_all_steps_at_once(grid: Grid) -> None:
    for number in range(4):
        ring = Ring(grid, f"ring{number}", 4)
        done = at_once(4, ring.make_from_next)
        assert ring.circles() == []
        assert not all(done)


def test_a_new_parent_is_locked_with_all_it_was_made_from(grid: Grid) -> None:
    """What it was made from may get no parent meanwhile; a parent known before is left alone."""
    if grid.database.dialect == "sqlite":  # one writer at a time
        return
    ring = Ring(grid, "ring", 5)
    for number in (1, 2, 3):
        assert ring.make_from_next(number)

    def free(conn: Connection) -> list[int]:
        return list(conn.execute(text("SELECT id FROM dataset FOR UPDATE SKIP LOCKED")).scalars())

    def look(parents: tuple[int, ...], name: str) -> set[int]:
        """Which of the ring others could not lock while a child of these files is registered."""
        child = NewFile(lfn=f"/store/ring/{name}", bytes=1, adler32=1, parents=parents)
        reserved = registration.reserve(grid.keys, 1)

        def unit(conn: Connection) -> set[int]:
            registration.register(conn, reserved, ring.ids[0], ALDER, [child], NOW)
            with ThreadPoolExecutor(1) as pool:
                return set(ring.ids) - set(pool.submit(grid.do, free).result())

        return grid.database.transaction(unit)

    assert look((ring.files[1],), "one") == set(ring.ids)
    assert look((ring.files[1],), "two") == {ring.ids[0]}
    assert look((), "three") == {ring.ids[0]}
