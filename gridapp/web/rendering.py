"""How pages are written: templates, and the way sizes, numbers and times are put."""

from __future__ import annotations

import zlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gridapp.insights.values import span
from gridapp.web import charts, data_charts
from gridcore.amounts import size

TEMPLATES = Path(__file__).parent / "templates"
STATIC = TEMPLATES.with_name("static")
#: (address, name) of the pages, in the order of the navigation.
PAGES = (
    ("/", "Grid"),
    ("/data", "Deliveries"),
    ("/data/datasets", "Datasets"),
    ("/data/transfers", "Transfers"),
    ("/data/links", "Links"),
    ("/data/sites", "Sites"),
    ("/data/deletions", "Deletions"),
)


def page(template: str, status: int = 200, **values: Any) -> Response:
    """The template filled in; what is stored is escaped."""
    text = _ENVIRONMENT.get_template(template).render(**values)
    return HTMLResponse(text, status_code=status, headers={"vary": "hx-request"})


def is_fragment(request: Request) -> bool:
    """Whether a page asks for a part of itself."""
    return request.headers.get("hx-request") == "true"


def fragment_or_page(request: Request, name: str) -> str:
    """The template of a part, or of the page around it."""
    return f"{name}.html" if is_fragment(request) else f"{name}_page.html"


def number(n: float | None) -> str:
    """`12,345`, or `n/a`."""
    return "n/a" if n is None else f"{n:,}"


def clock(iso: str | None) -> str:
    """`12:21:05` of an ISO time."""
    return iso[11:19] if iso else "n/a"


def moment(iso: str | None) -> str:
    """`2026-03-01 12:21:05 UTC` of an ISO time."""
    return f"{iso[:10]} {iso[11:19]} UTC" if iso else "n/a"


def minute(iso: str | None) -> str:
    """`2026-03-01 12:21` of an ISO time."""
    return f"{iso[:10]} {iso[11:16]}" if iso else "n/a"


def due(iso: str, now: str) -> str:
    """When that is, seen from now: `in 12 min (12:21)`, `in 3 days (2026-03-04 12:21)`, `12 min ago`."""
    left = (datetime.fromisoformat(iso) - datetime.fromisoformat(now)).total_seconds()
    if left < 0:
        return f"{span(-left)} ago"
    return f"in {span(left)} ({iso[11:16] if iso[:10] == now[:10] else minute(iso)})"


def address(text: str) -> str:
    """A name as part of an address."""
    return quote(text, safe="/:@")


@cache
def static(name: str) -> str:
    """The address of a file of the pages, another one once the file is another: browsers keep them."""
    return f"/static/{name}?{zlib.crc32((STATIC / name).read_bytes()):08x}"


def linked(path: str, **query: Any) -> str:
    """An address on this server with what of the query is set."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def _made() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for one in (size, number, clock, moment, minute, due, address, span, charts.words):
        made.filters[one.__name__] = one
    made.globals |= {
        "stacked_bar": lambda *args: Markup(charts.stacked_bar(*args)),
        "progress_bar": lambda *args: Markup(charts.progress_bar(*args)),
        "topology": lambda *args: Markup(charts.topology(*args)),
        "space_bar": lambda *args: Markup(data_charts.space_bar(*args)),
        "used_bar": lambda *args: Markup(data_charts.used_bar(*args)),
        "rates": lambda *args: Markup(data_charts.rates(*args)),
        "fabric": lambda *args: Markup(data_charts.fabric(*args)),
        "grade": data_charts.grade,
        "linked": linked,
        "static": static,
        "JOB_STATES": charts.JOB_STATES,
        "DRAWN": charts.DRAWN,
        "PAGES": PAGES,
    }
    return made


_ENVIRONMENT = _made()
