"""The arms of the TFC bench do the same work."""

from __future__ import annotations

from catalogs.tfc.catalog import TrivialCatalog
from gridapp.bench import data_tfc


def test_what_is_written_by_hand_answers_as_the_catalogue_does() -> None:
    catalog = TrivialCatalog("bench", data_tfc.CHAIN)
    resolve, hand = catalog.resolver(data_tfc.PROTOCOL), data_tfc.by_hand()
    names = data_tfc._names(3000)
    assert len(set(names)) == len(names)
    assert [resolve(lfn) for lfn in names] == [hand(lfn) for lfn in names]
    assert resolve(names[0]) == f"{data_tfc.DOOR}{data_tfc.GATE}{data_tfc.DATA}{names[0][7:]}"
