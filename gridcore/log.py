"""Structured logs: key=value on a terminal, JSON lines in files; secrets removed, one record one line."""

from __future__ import annotations

import contextvars
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from gridcore.errors import UsageError

HIDDEN = "***"
LEVELS = ("debug", "info", "warning", "error")

_SECRET_KEY = re.compile(r"passw(or)?d|token|secret|credential|authorization|private_?key", re.I)
# The password of any URL, up to the last @ of the word: a raw @ in a password must not leak its rest.
_URL_PASSWORD = re.compile(r"(://[^\s:@/]*:)\S*@")
_BEARER = re.compile(r"\b(bearer\s+)[^\s,;]+", re.I)
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*")
_ASSIGNED = re.compile(r"((?:passw(?:or)?d|token|secret)\w*(?:[\"']\s*:\s*[\"']|=[\"']?))[^\s\"'&,;]+", re.I)
# Controls (C0, C1), line and paragraph separators, text direction marks, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r"[^\s\"'=\\]+")

_CONTEXT: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar("log_context")


class Logger:
    """`log.info("claimed", jobs=7)`: an event in words and its facts as fields."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._emit(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error with the traceback of the exception being handled."""
        self._emit(logging.ERROR, event, fields, traceback=True)

    def _emit(self, level: int, event: str, fields: dict[str, object], *, traceback: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, exc_info=traceback, extra={"fields": fields})


def get(name: str) -> Logger:
    """The logger of a module: `log.get(__name__)`. Imports nothing; before `configure` it is stdlib's."""
    return Logger(name)


@contextmanager
def context(
    *,
    agent: str | None = None,
    job: str | None = None,
    attempt: int | None = None,
    transfer: int | None = None,
) -> Iterator[None]:
    """Every line logged inside, in this thread, carries these fields."""
    given = {"agent": agent, "job": job, "attempt": attempt, "transfer": transfer}
    fields = {name: value for name, value in given.items() if value is not None}
    token = _CONTEXT.set({**_CONTEXT.get({}), **fields})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second `configure` replaces it and nobody else's."""


def configure(level: str = "info", json: bool | None = None, stream: TextIO | None = None) -> None:
    """Send the whole process's logs to the stream (default stderr); may be called again.

    `json` None means JSON lines unless the stream is a terminal. Raises UsageError for an unknown level.
    """
    if level not in LEVELS:
        raise UsageError(f"log.level {level!r} does not exist", hint=f"one of {', '.join(LEVELS)}")
    target = sys.stderr if stream is None else stream
    handler = _Handler(target)
    handler.setFormatter(_formatter(not target.isatty() if json is None else json))
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # It announces each run of each duty.
    logging.getLogger("apscheduler").setLevel("DEBUG" if level == "debug" else "WARNING")


def _formatter(as_json: bool) -> logging.Formatter:
    import structlog

    render = structlog.processors.JSONRenderer(default=str) if as_json else _line
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            _add_fields,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _scrub_event,
            render,
        ],
    )


def _add_fields(_logger: Any, _method: str, event: Any) -> Any:
    """The context's fields and the call's own; a field named like one of ours does not replace it."""
    fields = getattr(event["_record"], "fields", {})
    return {**_CONTEXT.get({}), **fields, **event}


def _scrub_event(_logger: Any, _method: str, event: Any) -> Any:
    return scrub(event)


def scrub(value: object) -> object:
    """The value without passwords and tokens: by key in mappings, by shape in text; other types as text."""
    if isinstance(value, str):
        return _scrub_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {
            str(key): HIDDEN if inner and _SECRET_KEY.search(str(key)) else scrub(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub(inner) for inner in value]
    return _scrub_text(str(value))


def _scrub_text(text: str) -> str:
    text = _URL_PASSWORD.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _JWT.sub(HIDDEN, text)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", text)


def _line(_logger: Any, _method: str, event: Any) -> str:
    """`time level event key=value ... logger`, then a traceback whose lines cannot pass for records."""
    fields = dict(event)
    moment, level, name = (fields.pop(key) for key in ("timestamp", "level", "logger"))
    what, traceback = _safe(fields.pop("event")), fields.pop("exception", "")
    pairs = [f"{_safe(key)}={_quoted(value)}" for key, value in fields.items()]
    line = " ".join([moment, f"{level:<7}", what, *pairs, f"({_safe(name)})"])
    return "\n".join([line, *(f"    | {_safe(part)}" for part in traceback.splitlines())])


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if _PLAIN.fullmatch(text) and not _UNSAFE.search(text):
        return text
    return _safe(json.dumps(text, ensure_ascii=False))


def _safe(text: str) -> str:
    """The text with what could forge a line or drive a terminal written as an escape."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
