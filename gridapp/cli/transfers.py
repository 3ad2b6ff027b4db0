"""Commands about transfers: one file, one hop."""

from __future__ import annotations

import click

from gridapp.cli.verbs import Noun, Place, Record, limit_option, shown, state_option


@click.group(cls=Noun)
def transfer() -> None:
    """Transfers: one file, one hop."""


@transfer.command("list")
@state_option
@limit_option
@shown("lfn", "src", "dst", "state", "attempts", "bytes", "error")
@click.pass_obj
def transfer_list(place: Place, state: str | None, limit: int) -> list[Record]:
    """Transfers of replicas that are not complete, oldest first."""
    from gridapp.insights import transfers

    return place.ask(lambda conn: transfers.transfers(conn, state, limit))
