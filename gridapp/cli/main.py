"""`tierflow`: the table of commands, each loaded when it is called, and what happens to errors."""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import click

from gridapp.cli import output
from gridapp.cli.verbs import CONFIG_HELP, DIR_HELP, DIRECTORY, FILE, Place
from gridcore.errors import GridError

#: Exit status after Ctrl-C.
INTERRUPTED = 130


class Entry(NamedTuple):
    """Where a command is, and its line in the help, for which nothing is imported."""

    where: str
    help: str


COMMANDS = {
    "demo": Entry("demo:demo", "Make data on an embedded T0-T1-T2 grid and deliver it."),
    "up": Entry("ops:up", "Run the grid in a directory until stopped, with its API and live page."),
    "apply": Entry("ops:apply", "Make the grid say what a directory of topology files says."),
    "export": Entry("ops:export", "Write the grid's topology as files."),
    "request": Entry("requests:request", "Requests: what a group asks for."),
    "task": Entry("requests:task", "Tasks: one step of a request, or one physicist's submission."),
    "job": Entry("jobs:job", "Jobs: one unit range of a task."),
    "operation": Entry("jobs:operation", "Operations: orders on many jobs."),
    "share": Entry("shares:share", "Shares: who gets how much of the grid."),
    "retry-rule": Entry("retries:retry_rule", "Retry rules: what becomes of a job that failed."),
    "breaker": Entry("retries:breaker", "Breakers: sites kept from work because jobs fail there."),
    "agent": Entry("ops:agent", "Agents: the daemons that do the work."),
    "dataset": Entry("datasets:dataset", "Datasets, their blocks and replicas."),
    "block": Entry("blocks:block", "Blocks: sets of a dataset's files that move as one."),
    "file": Entry("files:file", "Files by their LFN: what is known of them, and what is wrong."),
    "subscribe": Entry(
        "subscriptions:subscribe", "Have a dataset, or one block, at a storage element, now and as it grows."
    ),
    "move": Entry(
        "subscriptions:move", "Have a dataset, or one block, at TO, and once all is there no longer at FROM."
    ),
    "subscription": Entry(
        "subscriptions:subscription", "Subscriptions: standing wishes for datasets and blocks."
    ),
    "delete": Entry("deletions:delete", "Delete the replicas of a dataset or block at a storage element."),
    "deletion": Entry("deletions:deletion", "Deletions: replicas that somebody wants away."),
    "transfer": Entry("transfers:transfer", "Transfers: one file, one hop."),
    "link": Entry("links:link", "Links between storage elements."),
    "site": Entry("sites:site", "Sites and their storage."),
    "tfc": Entry("tfc:tfc", "Trivial File Catalogs: from LFN to PFN."),
    "why": Entry("ops:why", "Why something waits or failed, and whose turn it is."),
    "match": Entry("match:match", "What an agent at a site would get now, and why."),
    "doctor": Entry("ops:doctor", "Look for what is wrong with the installation."),
    "bench": Entry("bench:bench", "Benchmarks: the public functions beside the raw driver."),
    "db": Entry("database:db", "The database: its schema, backups of it, and their return."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].where.partition(":")
        command: click.Command = getattr(importlib.import_module(f"gridapp.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error becomes two lines on stderr and the exit code of its kind."""
        try:
            return super().invoke(ctx)
        except GridError as error:
            output.complain(error.message, error.hint)
            _trace(ctx)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            _unexpected(error, ctx)
            ctx.exit(1)


def _unexpected(error: Exception, ctx: click.Context) -> None:
    from gridcore.log import scrub

    first = next(iter(str(error).splitlines()), "")
    output.complain(
        f"unexpected {type(error).__name__}: {scrub(first)}",
        "run it again with: tierflow --debug ..., and report the traceback",
    )
    _trace(ctx)


def _trace(ctx: click.Context) -> None:
    if ctx.params["debug"]:
        traceback.print_exc(file=sys.stderr)


@click.group(
    cls=LazyGroup,
    context_settings={
        "auto_envvar_prefix": "TIERFLOW",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.option("--dir", type=DIRECTORY, help=DIR_HELP)
@click.option("--config", type=FILE, help=CONFIG_HELP)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="tierflow", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, dir: Path | None, config: Path | None, debug: bool) -> None:
    """Tierflow: work and data of a collaboration that computes at many sites.

    Answers are tables on a terminal and JSON in a pipe or with --json. Exit status: 0 well, 1 failed,
    2 wrong usage, 3 not found, 4 denied, 5 unavailable.
    """
    ctx.obj = Place(dir, config, debug)
