"""What commands print: data on stdout, tables on a terminal and else one JSON document; words on stderr."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import click

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
# Controls (C0, C1), line and paragraph separators, text direction marks, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: A moment as JSON and stored reasons have it; people are shown its seconds.
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")

#: Characters below which a column is not squeezed, and one of names, which are copied whole.
LEAST_WIDTH, NAME_WIDTH = 24, 40
#: Characters that a record within a record may have to be told on one line.
INLINE = 72


class Change(NamedTuple):
    """A value that was changed: in JSON a list of both, to people `before -> after`."""

    before: Any
    after: Any


def safe(text: str) -> str:
    """The text on one line, without what could drive a terminal."""
    return _UNSAFE.sub("", _ESCAPE.sub("", text.replace("\n", " ").replace("\t", " ")))


def say(message: str) -> None:
    """A message for people, on stderr."""
    click.echo(safe(message), err=True)


def complain(message: str, hint: str | None = None) -> None:
    """An error and its cure, on stderr."""
    say(f"error: {message}")
    for number, line in enumerate((hint or "").splitlines()):
        say(f"{'      ' if number else 'hint: '}{line}")


def show(
    data: Any,
    columns: Sequence[str] = (),
    as_json: bool = False,
    tables: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Print a list of records or one record.

    `columns` are the keys a terminal shows of a list, `a.b` for a key within a key; those that end in `?` are
    left out, the last first, where the terminal is too narrow. `tables` are the columns of lists within a
    record, by their key; without them all are shown. JSON has everything.
    """
    if as_json or not sys.stdout.isatty():
        show_json(data)
    elif isinstance(data, Mapping):
        _show_record(data, sys.stdout, tables or {})
    elif data:
        _show_rows(data, columns or list(data[0]), sys.stdout)
    else:
        say("nothing to show")


def show_json(data: Any) -> None:
    """Print one JSON document; all but ASCII is escaped, so nothing in it can drive a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(data, indent=indent, default=str) + "\n")
    sys.stdout.flush()


def _show_record(
    record: Mapping[str, Any], stream: TextIO, tables: Mapping[str, Sequence[str]], above: str = ""
) -> None:
    """The plain values as lines, then lists of records as tables, and records as parts of their own."""
    apart = {key: value for key, value in record.items() if _is_table(value) or _is_deep(value)}
    _show_lines({key: value for key, value in record.items() if key not in apart}, stream)
    for key, value in apart.items():
        title = f"{above}{safe(key).replace('_', ' ')}"
        if not _is_deep(value):
            stream.write(f"\n{title}:\n")
            _show_rows(value, tables.get(key) or list(value[0]), stream)
            continue
        if not all(_is_table(one) or _is_deep(one) for one in value.values()):
            stream.write(f"\n{title}:\n")
        _show_record(value, stream, tables, f"{title}, ")
    stream.flush()


def _show_lines(values: Mapping[str, Any], stream: TextIO) -> None:
    """`key  value` each; long values go on below themselves, and of sentences each has its line."""
    width = max((len(key) for key in values), default=0)
    room = max(LEAST_WIDTH, shutil.get_terminal_size().columns - width - 2)
    for key, value in values.items():
        lines = [line for text in _texts(value) for line in _wrapped(text, room)]
        for number, line in enumerate(lines):
            stream.write(f"{'' if number else safe(key).replace('_', ' '):<{width}}  {line}\n")


def _texts(value: Any) -> list[str]:
    """A value as what is to stand on lines of its own: the sentences of a list, or all in one."""
    if isinstance(value, list | tuple) and any(isinstance(one, str) and " " in one for one in value):
        return [cell(one) for one in value]
    return [cell(value)]


def _wrapped(text: str, room: int) -> list[str]:
    """The text in lines; words stay whole, for they may be names to be copied."""
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _is_deep(value: object) -> bool:
    """Whether it is a record that holds records, too much for one line."""
    if not isinstance(value, Mapping):
        return False
    holds = any(isinstance(one, Mapping) or _is_table(one) for one in value.values())
    return holds and len(_pairs(value)) > INLINE


def _show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], stream: TextIO) -> None:
    """A table if it fits the terminal's width, if need be without some columns, else each row as lines."""
    names = [name.removesuffix("?") for name in columns]
    texts = {name: [cell(_value(row, name)) for row in rows] for name in names}
    headings = {name: safe(re.sub("[._]", " ", name)) for name in names}
    least = {
        name: min(
            LEAST_WIDTH if any(" " in text for text in texts[name]) else NAME_WIDTH,
            max(map(len, [*headings[name].split(), *texts[name]]), default=0),
        )
        for name in names
    }
    fitting = _fitting(columns, least)
    if fitting:
        _show_table(texts, {name: headings[name] for name in fitting}, least, stream)
        return
    for number in range(len(rows)):
        stream.write("\n" if number else "")
        _show_lines({headings[name]: texts[name][number] for name in names}, stream)


def _fitting(columns: Sequence[str], least: Mapping[str, int]) -> list[str]:
    """The columns that fit side by side, none if even those that may not be left out do not."""
    room, kept = shutil.get_terminal_size().columns, list(columns)

    def wide() -> bool:
        return sum(least[name.removesuffix("?")] for name in kept) + 2 * len(kept) > room

    for name in [one for one in reversed(columns) if one.endswith("?")]:
        if wide():
            kept.remove(name)
    return [] if wide() else [name.removesuffix("?") for name in kept]


def _show_table(
    texts: Mapping[str, Sequence[str]], headings: Mapping[str, str], least: Mapping[str, int], stream: TextIO
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    room, height = shutil.get_terminal_size()
    widths = {name: max(map(len, [heading, *texts[name]])) for name, heading in headings.items()}
    _squeeze(widths, least, room - 2 * len(widths))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, heading in headings.items():
        table.add_column(Text(heading), overflow="fold", width=widths[name])
    for row in zip(*(texts[name] for name in headings), strict=True):
        table.add_row(*map(Text, row))
    Console(file=stream, highlight=False, width=room, height=height).print(table)


def _squeeze(widths: dict[str, int], least: Mapping[str, int], room: int) -> None:
    """Take from the widest columns what is too much, none becoming narrower than its least."""
    while sum(widths.values()) > room:
        wide = [name for name in widths if widths[name] > least[name]]
        if not wide:
            return
        widths[max(wide, key=widths.__getitem__)] -= 1


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
            return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case Change(None, after):
            return cell(after)
        case Change(before, after):
            return f"{cell(before)} -> {cell(after)}"
        case {"sentence": str() as sentence}:
            return safe(sentence)
        case {"name": name}:
            return cell(name)
        case Mapping():
            return _pairs(value) or "-"
        case list() | tuple():
            return ", ".join(cell(inner) for inner in value) or "-"
    return _MOMENT.sub(r"\1Z", safe(str(value)))


def _pairs(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{safe(str(key))} {cell(inner)}" for key, inner in record.items())
