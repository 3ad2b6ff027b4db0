"""The composition root: the one place where settings become databases, executors, tools and agents."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from agents.accountant import Accountant
from agents.block_manager import BlockManager
from agents.deleter import Deleter
from agents.janitor import Janitor
from agents.job_maker import JobMaker
from agents.merger import Merger
from agents.prodagent import Host, ProdAgent
from agents.router import Router
from agents.runtime.agent import Agent, Context
from agents.transfer_agent import TransferAgent
from catalogs import sites
from datamgmt.tools.base import TransferTool
from datamgmt.tools.fake import FaultyTool
from datamgmt.tools.local import LocalTool
from gridapp.installation import INSTANCE, Installation
from gridcore.bus import Bus, MemoryBus
from gridcore.clock import SystemClock
from gridcore.db.keys import Keys
from gridcore.errors import UsageError
from gridcore.faults import FaultPlan
from gridcore.settings import Settings
from prodsys.executors.base import Executor
from prodsys.executors.fake import FaultyExecutor
from prodsys.executors.local import LocalExecutor
from prodsys.queue import endpoints
from prodsys.queue.sqlport import SqlQueuePort

#: The wait before a first retry that the retry table is written for.
RETRY_BASE_S = 60.0


def context(installation: Installation, bus: Bus | None = None) -> Context:
    """What the agents of this process share."""
    with installation.database.snapshot() as conn:
        uuid = conn.execute(INSTANCE).scalar_one()
    return Context(
        database=installation.database,
        keys=Keys(installation.database),
        settings=installation.settings,
        bus=bus or MemoryBus(),
        clock=SystemClock(),
        instance=uuid,
    )


def retry_scale(settings: Settings) -> float:
    """What the retry table's delays are multiplied by."""
    return settings.retry.base_s / RETRY_BASE_S


def executors(installation: Installation, faults: FaultPlan | None = None) -> dict[str, Executor]:
    """An executor for each endpoint this host reaches, by name."""
    settings = installation.settings
    with installation.database.snapshot() as conn:
        rows = endpoints.endpoints(conn)
    found: dict[str, Executor] = {}
    for row in rows:
        if row.kind == "local":
            spool = settings.dir / "spool" / row.name
            local = LocalExecutor(spool, slots=row.slots, python=settings.work.python)
            found[row.name] = FaultyExecutor(local, faults) if faults else local
    return found


def tools(installation: Installation, faults: FaultPlan | None = None) -> dict[str, TransferTool]:
    """The transfer tools by the name links use."""

    def roots() -> list[Path]:
        with installation.database.snapshot() as conn:
            return [Path(se.root) for se in sites.storage_elements(conn) if se.root]

    local = LocalTool(roots)
    return {"local": FaultyTool(local, faults) if faults else local}


def agents(shared: Context, faults: FaultPlan | None = None, only: Collection[str] = ()) -> list[Agent]:
    """The daemons, or those named. Raises UsageError for an unknown name."""
    settings = shared.settings
    installation = Installation(settings, shared.database)
    scale = retry_scale(settings)
    (settings.dir / "cache").mkdir(mode=0o700, exist_ok=True)
    host = Host(
        python=settings.work.python,
        heartbeat_s=settings.work.wrapper_heartbeat_s,
        stop_grace_s=settings.work.stop_grace_s,
        cache=str(settings.dir / "cache"),
    )
    port = SqlQueuePort(shared.database, shared.keys, shared.instance, scale)
    everyone: Sequence[Agent] = (
        JobMaker(shared),
        ProdAgent(shared, port, executors(installation, faults), host),
        Accountant(shared, scale),
        Merger(shared),
        BlockManager(shared),
        Router(shared),
        TransferAgent(shared, tools(installation, faults)),
        Deleter(shared, tools(installation)),
        Janitor(shared),
    )
    unknown = set(only) - {agent.name for agent in everyone}
    if unknown:
        names = ", ".join(agent.name for agent in everyone)
        raise UsageError(f"there is no agent {min(unknown)!r}", hint=f"agents: {names}")
    return [agent for agent in everyone if not only or agent.name in only]
