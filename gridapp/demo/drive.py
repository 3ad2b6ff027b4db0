"""Driving the demo: hand in the request, run the grid, hand in the physicist's task, wait for the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from agents.runtime.agent import Context
from agents.runtime.signals import stop_on_signals
from agents.runtime.supervisor import Supervisor
from catalogs.states import Switch, WishKind
from catalogs.tables import wish
from gridapp import installation as installations
from gridapp import linking, session, submission, wiring
from gridapp.demo.plan import Options, Plan, prepare
from gridapp.demo.progress import Progress, progress
from gridapp.demo.summary import summarise
from gridapp.insights.overview import overview
from gridapp.insights.why import why
from gridapp.installation import Installation
from gridapp.up import local_executors, stop_payloads
from gridcore.clock import SystemClock
from gridcore.errors import GridError
from gridcore.faults import FaultKind, FaultPlan

#: A demo in which nothing moves for so long has failed.
PATIENCE_S = 120.0
LOOK_EVERY_S = 0.25
#: The link `--faults` drops, both ways.
DROPPED = ("T1_DE_Alder_Disk", "T1_FR_Beech_Disk")
ENDED = frozenset(["COMPLETED", "INCOMPLETE", "KILLED"])

OPEN_WISHES = select(wish.c.id).where(wish.c.state == "OPEN", wish.c.kind == WishKind.DELETE).limit(1)


@dataclass(frozen=True, slots=True)
class Stage:
    """One thing to wait for."""

    name: str
    reached: Callable[[dict[str, Any]], bool]


def run(options: Options, directory: Path | None = None) -> dict[str, Any]:
    """Run a demo, or the rest of an interrupted one; its summary. Raises GridError where it got stuck."""
    started = time.monotonic()
    clock_now = SystemClock().now()
    plan = prepare(options, directory, clock_now)
    if plan.options.database is not None:
        installations.create(session.settings(plan.directory, None)).close()
    installation = session.start(plan.directory, None).installation
    try:
        shared = wiring.context(installation)
        demo = Demo(plan, installation, shared, started)
        demo.produce()
        return summarise(plan, installation, time.monotonic() - started)
    finally:
        installation.close()


class Demo:
    """One run of the grid, from wherever an earlier run left it."""

    def __init__(self, plan: Plan, installation: Installation, shared: Context, started: float) -> None:
        self._plan, self._installation, self._shared = plan, installation, shared
        self._started = started
        self._actor = session.principal(installation)
        self._faults = plan.faults()
        self._grace_s = installation.settings.work.stop_grace_s
        self._stopped = ""
        self._moved = (time.monotonic(), "")

    def produce(self) -> None:
        """All stages, with the agents running."""
        submission.submit_request(
            self._installation, self._shared, self._plan.request, self._actor, client_id="demo-production"
        )
        supervisor = Supervisor(wiring.agents(self._shared, self._faults), self._shared, "demo")
        with stop_on_signals(supervisor.stop), progress(self._started) as shown:
            supervisor.start()
            try:
                self._await(supervisor, shown, Stage("production and delivery", _delivered))
                submission.submit_task(
                    self._installation, self._shared, self._plan.task, self._actor, client_id="demo-analysis"
                )
                self._await(supervisor, shown, Stage("analysis", _all_ended))
                self._await(supervisor, shown, Stage("clean-up", lambda _: self._tidy()))
            finally:
                supervisor.stop("the demo is over")
                stop_payloads(list(local_executors(self._installation).values()), self._grace_s)

    def _await(self, supervisor: Supervisor, shown: Progress, stage: Stage) -> None:
        while True:
            reason = supervisor.wait(LOOK_EVERY_S)
            if reason:
                raise GridError(
                    f"stopped: {reason}",
                    hint=f"go on with: tierflow demo --dir {self._plan.directory} and the same options",
                )
            with self._installation.database.snapshot() as conn:
                view = overview(conn, self._installation.settings.lease.heartbeat_s)
            shown.show(view)
            if self._faults:
                self._drop_link(self._faults, view)
            if stage.reached(view):
                return
            self._check_moving(stage, view)

    def _check_moving(self, stage: Stage, view: dict[str, Any]) -> None:
        seen = repr([(task["name"], task["jobs"], task["state"]) for task in view["tasks"]])
        seen += repr([(link["files_ok"], link["files_bad"], link["queued"]) for link in view["links"]])
        now = time.monotonic()
        if seen != self._moved[1]:
            self._moved = (now, seen)
        elif now - self._moved[0] > PATIENCE_S:
            raise GridError(
                f"nothing has moved for {PATIENCE_S:.0f} s during {stage.name}: {self._reasons(view)}",
                hint=f"look with: tierflow --dir {self._plan.directory} task list",
            )

    def _reasons(self, view: dict[str, Any]) -> str:
        waiting = [task["name"] for task in view["tasks"] if task["state"] not in ENDED]
        waiting += [f"sub:{one['id']}" for one in view["subscriptions"] if one["state"] != "COMPLETE"]
        with self._installation.database.snapshot() as conn:
            now = self._shared.clock.now()
            return "; ".join(
                f"{name}: {' '.join(why(conn, name, now)['because'][:1])}" for name in waiting[:3]
            )

    def _drop_link(self, faults: FaultPlan, view: dict[str, Any]) -> None:
        """Once, as soon as the first block is on its way somewhere: what is left has to go round."""
        busy = any(link["files_ok"] + link["active"] + link["queued"] for link in view["links"])
        if not busy or not faults.first(FaultKind.LINK_DROPPED):
            return
        for src, dst in (DROPPED, DROPPED[::-1]):
            linking.switch_link(self._shared, src, dst, Switch.DISABLED, "dropped by --faults", self._actor)
        faults.record(FaultKind.LINK_DROPPED, "-".join(DROPPED))

    def _tidy(self) -> bool:
        with self._installation.database.snapshot() as conn:
            return conn.execute(OPEN_WISHES).first() is None


def _delivered(view: dict[str, Any]) -> bool:
    tasks, subscriptions = view["tasks"], view["subscriptions"]
    complete = subscriptions and all(one["state"] == "COMPLETE" for one in subscriptions)
    return bool(_all_ended(view) and complete and len(subscriptions) >= len(tasks))


def _all_ended(view: dict[str, Any]) -> bool:
    return bool(view["tasks"]) and all(task["state"] in ENDED for task in view["tasks"])
