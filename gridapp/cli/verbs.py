"""What all commands share: where the installation is, the options everyone takes, how answers are shown."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gridapp.cli import output

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from agents.runtime.agent import Context
    from gridapp.installation import Installation
    from gridcore.identity import Principal

T = TypeVar("T")


@dataclass(slots=True)
class Place:
    """The installation a command speaks to; `debug` shows tracebacks."""

    dir: Path | None = None
    config: Path | None = None
    debug: bool = False

    @contextmanager
    def connected(self) -> Iterator[Installation]:
        """The installation, closed afterwards. Raises UsageError."""
        from gridapp import session

        installation = session.connect(self.dir, self.config)
        try:
            yield installation
        finally:
            installation.close()

    def ask(self, question: Callable[[Connection], T]) -> T:
        """The answer from one snapshot of the database."""
        with self.connected() as installation, installation.database.snapshot() as conn:
            return question(conn)

    @contextmanager
    def acting(self) -> Iterator[tuple[Installation, Context, Principal]]:
        """The installation, its context and the account at the keyboard. Raises UsageError, Denied."""
        from gridapp import session, wiring

        with self.connected() as installation:
            yield installation, wiring.context(installation), session.principal(installation)


def _place_option(name: str, kind: click.Path, text: str) -> click.Option:
    """The same option as before the command's name; given here it counts more."""

    def remember(ctx: click.Context, option: click.Parameter, value: Path | None) -> None:
        place = ctx.find_object(Place)
        if place is not None and value is not None:
            setattr(place, str(option.name), value)

    return click.Option(
        [f"--{name}"], type=kind, expose_value=False, callback=remember, help=text, allow_from_autoenv=False
    )


DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
#: Keys are 64-bit integers.
KEY = click.IntRange(1, 2**63 - 1)
DIR_HELP = "Directory of the installation.  [env: TIERFLOW_DIR; default: .]"
CONFIG_HELP = "Settings file.  [env: TIERFLOW_CONFIG; default: DIR/tierflow.toml]"


class Verb(click.Command):
    """A command that takes --dir and --config after its name too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            _place_option("dir", DIRECTORY, DIR_HELP),
            _place_option("config", FILE, CONFIG_HELP),
        ]


class Noun(click.Group):
    """A group of verbs, listed in the order of the code."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


#: One row of an answer.
Record = dict[str, Any]

state_option = click.option("--state", help="Only those in this state.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many."
)
blocks_option = click.option(
    "--blocks",
    "limit",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    help="At most so many of its blocks.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be changed.")
json_option = click.option("--json", is_flag=True, help="JSON on a terminal too.")


def shown(*columns: str, **tables: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """The function's return value is the command's answer: a table of these columns, or JSON.

    `tables` are the columns of the lists within a record. A column that ends in `?` may be left out.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., None]:
        @json_option
        @functools.wraps(function)
        def command(*args: Any, json: bool, **options: Any) -> None:
            output.show(function(*args, **options), columns, json, tables)

        return command

    return wrap
