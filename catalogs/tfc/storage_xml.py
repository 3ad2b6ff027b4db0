"""A Trivial File Catalog as `storage.xml`, as sites publish it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.sax import SAXException
from xml.sax.handler import ContentHandler
from xml.sax.saxutils import quoteattr

from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import create_parser

from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.rules import KINDS, Dialect
from gridcore.errors import UsageError

TEXT_MAX = 1_000_000  # bytes of a storage.xml

_HINT = "a storage.xml is one <storage-mapping> of <lfn-to-pfn .../> and <pfn-to-lfn .../> rules"
_CHILDREN = {"": ("storage-mapping", "phedex"), "phedex": ("storage-mapping",), "storage-mapping": KINDS}


def to_xml(catalog: TrivialCatalog) -> str:
    """The catalogue as a storage.xml."""
    lines = ["<storage-mapping>"]
    for kind in KINDS:
        for rule in catalog.rules(kind):
            pairs = " ".join(f"{name}={quoteattr(value)}" for name, value in rule.attributes().items())
            lines.append(f"  <{kind} {pairs}/>")
    return "\n".join([*lines, "</storage-mapping>\n"])


def parse_storage_xml(
    text: str | bytes, *, source: str, dialect: Dialect = Dialect.PHEDEX, strict: bool = True
) -> TrivialCatalog:
    """The catalogue in a storage.xml, its top element <storage-mapping>, alone or inside a <phedex> answer.

    Raises UsageError naming the source, the line or rule, and the cure; with `strict=False` faulty rules are
    left for `lint` to list.
    """
    if len(text) > TEXT_MAX:
        raise UsageError(f"{source}: {len(text)} bytes; at most {TEXT_MAX}", hint=_HINT)
    parser = create_parser(forbid_dtd=True)
    reader = _Reader(source, parser.getLineNumber)
    parser.setContentHandler(reader)
    try:
        parser.feed(text)
        parser.close()
    except (SAXException, ValueError, LookupError) as error:  # defusedxml's refusals are ValueErrors
        line = parser.getLineNumber()
        raise UsageError(f"{source}: line {line}: {_trouble(error)}", hint=_HINT) from error
    return TrivialCatalog.from_dict(reader.rules, source=source, dialect=dialect, strict=strict)


def _trouble(error: Exception) -> str:
    if isinstance(error, DefusedXmlException):
        return "a DTD or entity; remove it"
    what = error.getMessage() if isinstance(error, SAXException) else error
    return f"no well-formed XML ({what}); correct it"


class _Reader(ContentHandler):
    """Collects the attributes of the rules; the elements it knows bound the depth of nesting."""

    def __init__(self, source: str, line: Callable[[], int]) -> None:
        super().__init__()
        self._source = source
        self._line = line
        self._path: list[str] = [""]
        self.rules: dict[str, list[dict[str, str]]] = {kind: [] for kind in KINDS}

    def startElement(self, name: str, attrs: Any) -> None:
        known = _CHILDREN.get(self._path[-1], ())
        if name not in known:
            cure = f"use {' or '.join(known)}" if known else "a rule is an empty element"
            what = f"line {self._line()}: <{name[:40]}> is not known here"
            raise UsageError(f"{self._source}: {what}; {cure}", hint=_HINT)
        self._path.append(name)
        if name in self.rules:
            self.rules[name].append(dict(attrs.items()))

    def endElement(self, name: str) -> None:
        self._path.pop()
