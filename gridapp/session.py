"""Opening an installation from a directory or settings file, and who is at the keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catalogs import sites
from gridapp import installation as installations
from gridapp.installation import SETTINGS_FILE, Installation
from gridcore import accounts, identity
from gridcore import settings as configuration
from gridcore.clock import SystemClock
from gridcore.db import Database
from gridcore.db.keys import Keys
from gridcore.errors import UsageError
from gridcore.identity import Action, Principal, Role, Subject
from gridcore.settings import Settings

if TYPE_CHECKING:
    from gridapp import apply
    from gridapp.topology import reader

EMBEDDED = Path(__file__).resolve().parent.parent / "etc" / "embedded"


def settings(directory: Path | None, config: Path | None) -> Settings:
    """The settings in `config`, else in the directory's tierflow.toml if it has one. Raises UsageError."""
    if config is None:
        beside = (directory or Path()) / SETTINGS_FILE
        config = beside if beside.exists() else None
    return configuration.load(config, {"dir": directory})


def connect(directory: Path | None, config: Path | None) -> Installation:
    """The installation there. Raises UsageError where there is none or its schema is another."""
    return installations.connect(settings(directory, config))


@dataclass(frozen=True, slots=True)
class Started:
    """An installation ready to run; `applied` says how many things a first start put into it."""

    installation: Installation
    applied: int


def start(directory: Path | None, config: Path | None) -> Started:
    """The installation there, made if needed; one without any site gets the embedded grid.

    Safe to repeat after a kill at any moment. Raises UsageError.
    """
    if config is None:
        _copy_settings(directory or Path())
    chosen = settings(directory, config)
    server = not chosen.database.url.startswith("sqlite")
    installation = installations.connect(chosen) if server else installations.create(chosen)
    try:
        with installation.database.snapshot() as conn:
            empty = not sites.sites(conn)
        applied = apply_topology(installation, _embedded(), prune=False) if empty else []
    except BaseException:
        installation.close()
        raise
    return Started(installation, len(applied))


def _embedded() -> Path:
    if not EMBEDDED.is_dir():
        raise UsageError(
            f"the embedded grid is not at {EMBEDDED}",
            hint="run a source checkout, or apply your own topology",
        )
    return EMBEDDED


def _copy_settings(directory: Path) -> None:
    """A directory without database or settings gets those of the embedded grid."""
    target = directory / SETTINGS_FILE
    if target.exists() or (directory / "tierflow.db").exists():
        return
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        shutil.copyfile(_embedded() / SETTINGS_FILE, part)
        part.rename(target)
    except OSError as error:
        raise UsageError(
            f"{directory}: {error.strerror}", hint="name a directory that you may write to: --dir DIR"
        ) from None


def read_topology(installation: Installation, directory: Path) -> reader.Topology:
    """The topology in a directory, its variables filled in for this installation. Raises UsageError."""
    from gridapp.topology import reader

    return reader.read_topology(directory, {"TIERFLOW_DIR": str(installation.settings.dir)})


def apply_topology(installation: Installation, directory: Path, *, prune: bool) -> list[apply.Change]:
    """Make the database say what the directory says; what was changed.

    Raises UsageError, Denied, Conflict.
    """
    who = configurer(installation)
    wanted = read_topology(installation, directory)
    keys = Keys(installation.database)
    from gridapp import apply

    return apply.apply(installation.database, keys, wanted, who.name, prune, SystemClock().now())


def principal(installation: Installation) -> Principal:
    """The account of the Unix user who runs this process. Raises Denied."""
    with installation.database.snapshot() as conn:
        known = accounts.accounts(conn)
    return identity.local_principal(identity.unix_login(), known)


def configurer(installation: Installation) -> Principal:
    """Who applies a topology; before the first one there are no accounts, and anybody may. Raises Denied."""
    with installation.database.snapshot() as conn:
        known = accounts.accounts(conn)
    if not known:
        return Principal("setup", roles={identity.EVERYWHERE: frozenset([Role.OPERATOR])})
    who = identity.local_principal(identity.unix_login(), known)
    identity.require(who, Action.GRID_CONFIGURE)
    return who


def require(installation: Installation, action: Action, subject: Subject | None = None) -> Principal:
    """The account at the keyboard, if it may do this. Raises Denied."""
    who = principal(installation)
    identity.require(who, action, subject)
    return who


@contextmanager
def database(chosen: Settings) -> Iterator[Database]:
    """The database of these settings, whatever its schema. Raises UsageError where there is none."""
    opened = Database(chosen.database_url(), statement_timeout_s=chosen.database.statement_timeout_s)
    try:
        if opened.dialect == "sqlite" and not Path(opened.url.database or "").exists():
            raise UsageError(
                f"there is no Tierflow in {chosen.dir}",
                hint="name its directory with --dir, or make one: tierflow up --dir DIR",
            )
        yield opened
    finally:
        opened.close()
