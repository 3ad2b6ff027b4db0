"""What commands print: data on stdout, tables on a terminal and else one JSON document; words on stderr."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
# Controls (C0, C1), line and paragraph separators, text direction marks, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Characters below which a column is not squeezed, so that names stay whole.
LEAST_WIDTH = 24


def safe(text: str) -> str:
    """The text on one line, without what could drive a terminal."""
    return _UNSAFE.sub("", _ESCAPE.sub("", text.replace("\n", " ").replace("\t", " ")))


def say(message: str) -> None:
    """A message for people, on stderr."""
    click.echo(safe(message), err=True)


def complain(message: str, hint: str | None = None) -> None:
    """An error and its cure, on stderr."""
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")


def show(data: Any, columns: Sequence[str] = (), as_json: bool = False) -> None:
    """Print a list of records or one record.

    `columns` are the keys a terminal shows of a list, `a.b` for a key within a key; JSON has them all.
    """
    if as_json or not sys.stdout.isatty():
        show_json(data)
    elif isinstance(data, Mapping):
        _show_record(data, sys.stdout)
    elif data:
        _show_rows(data, columns or list(data[0]), sys.stdout)
    else:
        say("nothing to show")


def show_json(data: Any) -> None:
    """Print one JSON document; all but ASCII is escaped, so nothing in it can drive a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(data, indent=indent, default=str) + "\n")
    sys.stdout.flush()


def _show_record(record: Mapping[str, Any], stream: TextIO) -> None:
    """The plain values as lines, then each list of records as a table of its own."""
    _show_lines({key: value for key, value in record.items() if not _is_table(value)}, stream)
    for key, value in record.items():
        if _is_table(value):
            stream.write(f"\n{safe(key).replace('_', ' ')}:\n")
            _show_rows(value, list(value[0]), stream)
    stream.flush()


def _show_lines(values: Mapping[str, Any], stream: TextIO) -> None:
    width = max((len(key) for key in values), default=0)
    for key, value in values.items():
        stream.write(f"{safe(key):<{width}}  {cell(value)}\n")


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], stream: TextIO) -> None:
    """A table if it fits the terminal's width, else each row as lines."""
    texts = {name: [cell(_value(row, name)) for row in rows] for name in columns}
    headings = {name: safe(re.sub("[._]", " ", name)) for name in columns}
    least = {
        name: min(LEAST_WIDTH, max(map(len, [*headings[name].split(), *texts[name]]), default=0))
        for name in columns
    }
    if sum(least.values()) + 2 * len(columns) <= shutil.get_terminal_size().columns:
        _show_table(texts, headings, least, stream)
        return
    for number in range(len(rows)):
        stream.write("\n" if number else "")
        _show_lines({headings[name]: texts[name][number] for name in columns}, stream)


def _show_table(
    texts: Mapping[str, Sequence[str]], headings: Mapping[str, str], least: Mapping[str, int], stream: TextIO
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, heading in headings.items():
        table.add_column(Text(heading), overflow="fold", min_width=least[name])
    for row in zip(*texts.values(), strict=True):
        table.add_row(*map(Text, row))
    Console(file=stream, highlight=False, width=shutil.get_terminal_size().columns).print(table)


def _value(row: Mapping[str, Any], name: str) -> Any:
    """`row["a"]["b"]` for the column `a.b`; None where there is no such key."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def cell(value: Any) -> str:
    """A value as a terminal shows it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case {"name": name}:
            return cell(name)
        case Mapping():
            return ", ".join(f"{safe(str(key))} {cell(inner)}" for key, inner in value.items()) or "-"
        case list() | tuple():
            return ", ".join(cell(inner) for inner in value) or "-"
    return safe(str(value))
