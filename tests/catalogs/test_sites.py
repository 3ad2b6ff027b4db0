"""Sites, storage elements and links: reading, changing by name, and refusing to remove what is in use."""

from __future__ import annotations

from dataclasses import replace

import pytest
from catalog_grid import ALDER, BIRCH, CEDAR, NOW, Grid, at_once, new_file, storage

from catalogs import sites
from catalogs.sites import Link, Site
from catalogs.states import Switch
from gridcore.errors import Conflict, NotFound, UsageError

LINK = Link(id=1, src_se_id=ALDER, dst_se_id=BIRCH, distance=1.5, tool="local")


def test_what_is_put_is_read(grid: Grid) -> None:
    assert grid.do(sites.put_link, LINK)
    assert [one.name for one in grid.read(sites.sites)] == ["T1_DE_Alder", "T1_DE_Birch", "T1_DE_Cedar"]
    assert grid.read(sites.links) == [LINK]
    assert sites.by_name(grid.read(sites.storage_elements))["Birch_Disk"] == storage(BIRCH, "Birch_Disk")


def test_putting_the_same_again_changes_nothing(grid: Grid) -> None:
    grid.do(sites.put_link, LINK)
    assert not grid.do(sites.put_site, Site(id=77, name="T1_DE_Alder", tier=1, note=""))
    assert not grid.do(sites.put_se, replace(storage(ALDER, "Alder_Disk"), id=77, root=""))
    assert not grid.do(sites.put_link, replace(LINK, id=77))


def test_changes_keep_the_id(grid: Grid) -> None:
    grid.do(sites.put_link, LINK)
    site = Site(id=77, name="T1_DE_Alder", tier=0, state=Switch.DISABLED, note="power cut")
    assert grid.do(sites.put_site, site)
    assert grid.read(sites.sites)[0] == replace(site, id=ALDER)
    rules = {"lfn-to-pfn": [{"protocol": "gsiftp", "path-match": "/+(.*)", "result": "gsiftp://x/$1"}]}
    new = replace(storage(ALDER, "Alder_Disk"), protocol="gsiftp", tfc=sites.tfc_text(rules), root="/data")
    assert grid.do(sites.put_se, new)
    found = sites.by_name(grid.read(sites.storage_elements))["Alder_Disk"]
    assert sites.pfn_of(found, "/store/a/b.root") == ("gsiftp://x/store/a/b.root", "gsiftp")
    assert grid.do(sites.put_link, replace(LINK, id=77, distance=2.0))
    assert grid.read(sites.links) == [replace(LINK, distance=2.0)]


def test_two_who_put_the_same_site_at_once_make_one(grid: Grid) -> None:
    new = [Site(id=50 + n, name="T2_RU_Elm", tier=2) for n in range(4)]
    assert sorted(at_once(4, lambda n: grid.do(sites.put_site, new[n]))) == [False] * 3 + [True]
    assert len(grid.read(sites.sites)) == 4


def test_faulty_names_and_rules_are_refused(sqlite_grid: Grid) -> None:
    with pytest.raises(UsageError, match="no site name"):
        sqlite_grid.do(sites.put_site, Site(id=9, name="Elm", tier=2))
    with pytest.raises(UsageError, match="name of a storage element"):
        sqlite_grid.do(sites.put_se, storage(9, "Elm Disk"))
    rules = {"lfn-to-pfn": [{"protocol": "direct", "path-match": "(", "result": "$1"}]}
    with pytest.raises(UsageError, match="Elm_Disk"):
        sqlite_grid.do(sites.put_se, replace(storage(9, "Elm_Disk"), tfc=sites.tfc_text(rules)))


def test_pfns_come_from_the_rules_and_catalogs_are_built_once(sqlite_grid: Grid) -> None:
    alder, again = (sqlite_grid.read(sites.storage_elements)[0] for _ in range(2))
    assert sites.pfn_of(alder, new_file(1).lfn) == ("/data/store/data/MinBias/0/file_1.root", "direct")
    assert alder.catalog is again.catalog
    with pytest.raises(NotFound, match="Alder_Disk"):
        sites.pfn_of(replace(alder, protocol="srm"), "/store/a")


def test_a_link_is_switched_with_a_note(grid: Grid) -> None:
    grid.do(sites.put_link, LINK)
    assert grid.do(sites.set_link_state, 1, Switch.DISABLED, "fibre cut")
    assert grid.read(sites.links) == [replace(LINK, state=Switch.DISABLED, note="fibre cut")]
    assert grid.do(sites.set_link_state, 1, Switch.ENABLED, "")
    assert grid.read(sites.links)[0].note is None
    assert not grid.do(sites.set_link_state, 99, Switch.ENABLED, None)


def test_what_is_in_use_is_not_removed(grid: Grid) -> None:
    grid.do(sites.put_link, LINK)
    grid.register(new_file(1), now=NOW)
    with pytest.raises(Conflict, match="site 1 is in use by 1 se"):
        grid.do(sites.remove_site, ALDER)
    with pytest.raises(Conflict, match="1 block, 1 block_replica, 1 link"):
        grid.do(sites.remove_se, ALDER)
    grid.do(sites.remove_link, 1)
    grid.do(sites.remove_se, CEDAR)
    grid.do(sites.remove_site, CEDAR)
    assert [one.id for one in grid.read(sites.sites)] == [ALDER, BIRCH]
    assert [one.id for one in grid.read(sites.storage_elements)] == [ALDER, BIRCH]
    with pytest.raises(NotFound, match="no link with id 1"):
        grid.do(sites.remove_link, 1)
