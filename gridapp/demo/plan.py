"""What a demo shall do and where: its options, its directory, and the documents it hands in."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import inspect

from gridapp.installation import SETTINGS_FILE
from gridapp.session import EMBEDDED
from gridcore import settings
from gridcore.db import Database
from gridcore.errors import UsageError
from gridcore.faults import FaultJournal, FaultPlan

REQUESTS = Path(__file__).resolve().parents[2] / "etc" / "requests"
PAYLOADS = ("urqmd", "toy")
_EVENTS = re.compile(r"^events = \d+$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for; `faults` is a seed, `database` the URL of an empty one, None for a file."""

    events: int = 160
    payload: str = "urqmd"
    faults: int | None = None
    database: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A demo's directory and what belongs there."""

    directory: Path
    options: Options

    @property
    def request(self) -> Path:
        """The production request."""
        return self.directory / "requests" / f"auau7-{self.options.payload}.toml"

    @property
    def task(self) -> Path:
        """The physicist's task."""
        return self.directory / "requests" / f"spectra-{self.options.payload}.toml"

    @property
    def tools(self) -> Path:
        """The scripts that count events and draw."""
        return self.directory / "requests" / "payloads"

    @property
    def summary(self) -> Path:
        """Written last: a demo that has it is finished."""
        return self.directory / "summary.json"

    def faults(self) -> FaultPlan | None:
        """The faults to inject, with the journal of those that were."""
        if self.options.faults is None:
            return None
        return FaultPlan(self.options.faults, FaultJournal(self.directory / "faults.jsonl"))


def prepare(options: Options, directory: Path | None, now: datetime) -> Plan:
    """A new demo, or the interrupted one in the directory. Raises UsageError.

    What is handed in lies in `requests/` beside the database, to be looked at and handed in again.
    """
    _check(options)
    directory = (directory or Path("tierflow-demo") / f"{now.astimezone():%y%m%d-%H%M%S}").absolute()
    chosen = settings.load(None, {"dir": directory, "database.url": options.database})
    if chosen.database.url != settings.Database().url:
        options = replace(options, database=chosen.database.url)
    plan = Plan(directory, options)
    if plan.summary.exists():
        raise UsageError(
            f"the demo in {directory} is finished", hint="give another --dir, or none for a new one"
        )
    stored = directory / "demo.json"
    if stored.exists():
        known = Options(**json.loads(stored.read_text()))
        if options.database is None:
            options = replace(options, database=known.database)
        if known != options:
            raise UsageError(
                f"the interrupted demo in {directory} has other options: {asdict(known)}",
                hint="repeat those, or give another --dir",
            )
        return Plan(directory, options)
    if options.database is not None:
        _check_empty(chosen)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _copy_documents(plan)
        _write_settings(plan)
        part = stored.with_suffix(".part")
        part.write_text(json.dumps(asdict(options)))
        part.rename(stored)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}", hint="give a --dir you may write to") from None
    return plan


def _check(options: Options) -> None:
    if options.payload not in PAYLOADS:
        raise UsageError(f"there is no payload {options.payload!r}", hint=f"payloads: {', '.join(PAYLOADS)}")
    if options.events < 1:
        raise UsageError(f"--events {options.events}: a demo needs events", hint="give a positive number")
    missing = [name for name in ("chromo", "uproot") if find_spec(name) is None]
    if options.payload == "urqmd" and missing:
        raise UsageError(
            f"the physics packages are not installed ({', '.join(missing)})",
            hint="pip install 'tierflow[demo]', or: tierflow demo --payload toy",
        )


def _check_empty(chosen: settings.Settings) -> None:
    """Raises UsageError where the database holds anything, Unavailable where it does not answer."""
    database = Database(chosen.database_url())
    try:
        if database.dialect == "sqlite" and not Path(str(database.url.database)).exists():
            return
        with database.snapshot() as conn:
            tables = inspect(conn).get_table_names()
    finally:
        database.close()
    if tables:
        raise UsageError(
            f"the database {chosen.database.url} is not empty",
            hint="make a new one for the demo: CREATE DATABASE",
        )


def _write_settings(plan: Plan) -> None:
    """Those of the embedded grid, with the database's URL: every command finds it by the directory."""
    if plan.options.database is not None:
        text = (EMBEDDED / SETTINGS_FILE).read_text()
        text += f"\n[database]\nurl = {json.dumps(plan.options.database)}\n"
        (plan.directory / SETTINGS_FILE).write_text(text)


def _copy_documents(plan: Plan) -> None:
    if not REQUESTS.is_dir():
        raise UsageError(f"the sample requests are not at {REQUESTS}", hint="run a source checkout")
    shutil.copytree(
        REQUESTS / "payloads", plan.tools, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    text = (REQUESTS / plan.request.name).read_text()
    plan.request.write_text(_EVENTS.sub(f"events = {plan.options.events}", text))
    shutil.copyfile(REQUESTS / plan.task.name, plan.task)
