"""Files found by walking a storage element: their names by its rules, their checksums by its tool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from catalogs import listing
from catalogs.filebatch import FileBatch, NewFile
from catalogs.listing import Fault, Line, Portion
from catalogs.sites import StorageElement, pfn_of
from datamgmt.tools.base import ErrorClass, ToolError, TransferTool
from gridcore.errors import GridError, UsageError
from gridcore.ids import check_lfn

#: Files of a portion: each is read whole for its checksum before any of them is registered.
PORTION = 200


@dataclass(frozen=True, slots=True)
class Walked:
    """What lies below a directory of a storage element: `prefix` is an LFN or a PFN."""

    tool: TransferTool
    element: StorageElement
    prefix: str
    summed: bool = False

    @property
    def name(self) -> str:
        """As the audit log has it."""
        return f"{self.element.name}:{self.prefix}"

    def portions(self) -> Iterator[Portion | Fault]:
        """All files in the order of the tool, their checksums still unknown."""
        return listing.gathered(self._found(), PORTION)

    def filled(self, batch: FileBatch) -> FileBatch:
        """The files with the checksums of what lies there, without those that are being written or gone."""
        found = {place: self._adler32(batch, place) for place in range(len(batch))}
        sums = {place: adler32 for place, adler32 in found.items() if adler32 is not None}
        return replace(batch.at(list(sums)), adler32=list(sums.values()))

    def _adler32(self, batch: FileBatch, place: int) -> int | None:
        pfn, _ = pfn_of(self.element, batch.lfn(place))
        try:
            found = self.tool.checksum(pfn)
            after = self.tool.stat(pfn)
        except ToolError as error:
            if error.error_class is ErrorClass.NOT_ARRIVED:
                return None
            raise
        return found if after is not None and after.size == batch.bytes[place] else None

    def _found(self) -> Iterator[tuple[str, Line | Fault]]:
        top = self.prefix
        if top == "/store" or top.startswith("/store/"):
            top, _ = pfn_of(self.element, check_lfn(top.rstrip("/")))
        for pfn, size in self.tool.list(top):
            try:
                yield pfn, Line(NewFile(lfn=self._lfn(pfn), bytes=size, adler32=0), "", ())
            except GridError as error:
                yield pfn, Fault(pfn, error.message)

    def _lfn(self, pfn: str) -> str:
        """Its name, if that leads back to it. Raises NotFound, UsageError."""
        lfn = check_lfn(self.element.catalog.lfn(pfn, self.element.protocol))
        back, _ = pfn_of(self.element, lfn)
        if back != pfn:
            raise UsageError(f"its rules name it {lfn}, which lies at {back}", hint="see: tierflow tfc lint")
        return lfn
