"""The page docs/cli.md, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from gridapp.cli.main import COMMANDS, main

_INTRODUCTION = """# Commands

Written by `gridapp.cli.reference.document()`; a test keeps it so.

`tierflow` speaks to the installation in `--dir` (or `TIERFLOW_DIR`, or the working directory); `--dir` and
`--config` may stand before or after the command. Answers are tables on a terminal, and one JSON document in a
pipe or with `--json`; messages and progress go to stderr. Every option can be given in the environment too.

| Exit status | Meaning |
|---|---|
| 0 | well |
| 1 | failed, or something is wrong (`doctor`, `db check`, `tfc lint`) |
| 2 | wrong usage: what was asked makes no sense |
| 3 | there is no such thing |
| 4 | denied |
| 5 | unavailable: try again later |
| 130 | interrupted by Ctrl-C |
"""


def document() -> str:
    """The page, in the order of `tierflow --help`."""
    root = click.Context(main, info_name="tierflow", auto_envvar_prefix="TIERFLOW")
    parts = [_INTRODUCTION, "## tierflow\n\n" + _options(root, main)]
    for name in COMMANDS:
        command = main.get_command(root, name)
        assert command is not None
        parts.append(f"## {name}\n\n{COMMANDS[name].help}\n")
        parts += [_section(ctx) for ctx in _verbs(click.Context(command, info_name=name, parent=root))]
    return "\n".join(parts)


def _verbs(ctx: click.Context) -> Iterator[click.Context]:
    """The context of the command itself, or of each verb of a noun, at any depth."""
    if not isinstance(ctx.command, click.Group):
        yield ctx
        return
    for name in ctx.command.list_commands(ctx):
        verb = ctx.command.get_command(ctx, name)
        assert verb is not None
        yield from _verbs(click.Context(verb, info_name=name, parent=ctx))


def _section(ctx: click.Context) -> str:
    arguments = [param.make_metavar(ctx) for param in ctx.command.params if isinstance(param, click.Argument)]
    usage = " ".join([ctx.command_path, *arguments])
    text = inspect.cleandoc(ctx.command.help or "")
    return f"### `{usage}`\n\n{text}\n\n{_options(ctx, ctx.command)}"


def _options(ctx: click.Context, command: click.Command) -> str:
    """The table of a command's own options; --dir and --config are those of all."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    rows = [_row(ctx, option) for option in options if option.expose_value]
    if not rows:
        return ""
    return "\n".join(["| Option | Environment | Meaning |", "|---|---|---|", *rows, ""])


def _row(ctx: click.Context, option: click.Option) -> str:
    variable = f"{ctx.auto_envvar_prefix}_{str(option.name).upper()}"
    names, meaning = option.get_help_record(ctx) or ("", "")
    cells = [f"`{names}`", f"`{variable}`", " ".join(meaning.split())]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
