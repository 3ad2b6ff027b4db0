"""Generated documentation: pages and sections made of the code they describe, so that they cannot go stale.

Run `python -m gridapp.documentation` in a checkout to write them all; a test compares them.
"""

from __future__ import annotations

import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import CheckConstraint, Column, Index, Table, UniqueConstraint

import catalogs.invariants
import catalogs.states
import catalogs.tables
import datamgmt.deletion_states
import datamgmt.invariants
import datamgmt.subscription_states
import datamgmt.tables
import datamgmt.transfer_states
import gridcore.tables
import prodsys.invariants
import prodsys.states
import prodsys.tables
from gridapp.cli import reference
from gridcore import metrics, settings
from gridcore.db.invariants import Invariant
from gridcore.db.types import EnumText, Json, UtcTime, metadata
from gridcore.states import Rule, StateMachine
from prodsys import job_states

Machine = StateMachine[Any, Any]

#: All state machines, in the order of docs/states.md.
MACHINES: tuple[Machine, ...] = (
    job_states.JOB,
    prodsys.states.TASK,
    prodsys.states.REQUEST,
    prodsys.states.OUTPUT,
    catalogs.states.BLOCK,
    catalogs.states.REPLICA,
    datamgmt.transfer_states.MACHINE,
    datamgmt.subscription_states.MACHINE,
    datamgmt.deletion_states.MACHINE,
)
#: States without a table of moves.
PLAIN: tuple[type[StrEnum], ...] = (
    catalogs.states.DatasetState,
    catalogs.states.Access,
    catalogs.states.WishState,
)
#: The packages with tables and invariants, from the foundation up.
LAYERS: Mapping[str, tuple[Any, Sequence[Invariant]]] = {
    "gridcore": (gridcore.tables, ()),
    "catalogs": (catalogs.tables, catalogs.invariants.INVARIANTS),
    "prodsys": (prodsys.tables, prodsys.invariants.INVARIANTS),
    "datamgmt": (datamgmt.tables, datamgmt.invariants.INVARIANTS),
}
#: {table: (what it is for, who fills it)}; a table without an entry fails the tests.
TABLES: Mapping[str, tuple[str, str]] = {
    "instance": ("Names this installation; part of every batch key.", "`installation.create`"),
    "id_range": ("The next free key per table; keys are reserved in ranges.", "`gridcore.db.keys`"),
    "lease": (
        "One owner's right to a named piece of work until a time.",
        "`LeaseKeeper`, `apply` (endpoints)",
    ),
    "heartbeat": ("One row per running agent and process.", "`Supervisor`; pruned by the janitor"),
    "outbox": ("Events, in the transaction they tell of.", "catalogs; pruned by the janitor"),
    "quota": (
        "(owner, limit, used): transit space of each SE, space of groups at sites.",
        "`apply`, `site quota set` (limits)",
    ),
    "account": ("Who may do anything here.", "`apply`"),
    "account_role": ("Logins, groups and roles of accounts.", "`apply`"),
    "audit_log": ("Who changed what by hand.", "`apply`, switched links, orders on jobs, tasks and requests"),
    "revision": ("What was applied, by digest.", "`apply`, `db upgrade`"),
    "site": ("A computing centre.", "`apply`"),
    "se": ("A storage element and its trivial file catalog.", "`apply`"),
    "link": ("The way from one SE to another.", "`apply`; switched by operators"),
    "dataset": ("A named collection of blocks, its counters and its block policy.", "approval, registration"),
    "dataset_meta": ("What its owner says of a dataset, by name.", "`dataset set`"),
    "dataset_parent": ("Which datasets a dataset was made from.", "`db upgrade`; no agent yet"),
    "dataset_history": (
        "What was changed of datasets, and by whom.",
        "`dataset set|access|close|reopen`, whoever ends a task",
    ),
    "holding": (
        "Counters: what an SE holds of a dataset in COMPLETE replicas.",
        "whatever changes replicas or their blocks, in its transaction",
    ),
    "se_use": (
        "Counters: what an SE holds, expects and is rid of.",
        "whatever changes replicas or their blocks, in its transaction",
    ),
    "block": (
        "A set of files that moves as one; it grows at its origin SE until it is closed.",
        "registration",
    ),
    "block_history": ("When a block was opened and closed, and why.", "registration, block_manager"),
    "dir": ("Directories of LFNs, each text once.", "registration"),
    "data_file": ("A registered file; its LFN is directory and name.", "registration (accountant)"),
    "file_run": ("Run and lumi ranges of a file.", "registration"),
    "file_parent": ("What a file was made from.", "registration"),
    "block_run": ("First and last lumi of a run in a block.", "`db upgrade`; no agent yet"),
    "invalid_file": ("Files nobody shall read.", "`file invalidate`, `file lost`"),
    "file_history": ("What was done to files, and by whom.", "`file invalidate|revalidate|bad|lost`"),
    "block_replica": (
        "A block at an SE; the one truth on where data lies.",
        "registration, router, transfer_agent",
    ),
    "file_exception": (
        "Files missing or bad at a COMPLETE replica.",
        "`exceptions.add`; no agent yet",
    ),
    "wish": (
        "What one half asks of the other, with the answer.",
        "prodsys; answered by block_manager, deleter",
    ),
    "queue": ("One row: whoever locks it may claim or make jobs READY.", "`installation.create`"),
    "share_node": (
        "The tree of shares: targets, use, cores running.",
        "`apply`, `share set`, approval; counted by job moves",
    ),
    "endpoint": ("One schedd, cluster, CE or host an executor talks to, and what it offers.", "`apply`"),
    "sandbox": ("Input sandboxes by content.", "submission"),
    "site_share": ("What a site's own weight multiplies a target by.", "`apply`"),
    "prodagent": ("Named ProdAgents, to which policies assign requests.", "`apply`"),
    "agent_endpoint": ("The endpoints a named ProdAgent serves.", "`apply`"),
    "site_set": ("Named sets of sites.", "`apply`"),
    "site_set_member": ("The sites of a set.", "`apply`"),
    "policy": ("Who gets which requests: the first rule that fits decides.", "`apply`"),
    "request_agent": ("The ProdAgents a request is assigned to.", "approval"),
    "task_range": ("The ledger of units where they are lumis.", "the job maker"),
    "job_file": ("The files a job reads, where several jobs may read one.", "the job maker"),
    "class_use": ("Active jobs and cores of a class at a site.", "every claim and move, in its transaction"),
    "work_limit": ("Most active jobs or cores of a site, share or task type.", "`apply`"),
    "site_outcome": (
        "How attempts ended at a site, by bins of time.",
        "the accountant; pruned by the janitor",
    ),
    "breaker": ("Sites that get no work, or only canaries.", "the accountant"),
    "operation": (
        "Orders on many jobs, resumable and undone within a window.",
        "`job kill|hold|release|retry|priority`",
    ),
    "operation_part": ("The jobs a part of an operation changed.", "the same"),
    "request": ("What a group asks for.", "submission, approval, job_maker (end)"),
    "request_history": ("Moves of requests.", "whoever moves one"),
    "request_site": ("The sites a request is assigned to; none means all.", "approval"),
    "task": ("One step of an approved request, or one physicist's submission.", "approval, job_maker"),
    "task_count": ("Jobs and units by kind and state.", "`prodsys.jobs.store`, with each move"),
    "task_history": ("Moves of tasks.", "approval, job_maker"),
    "task_block": ("Input blocks already cut into jobs.", "job_maker"),
    "task_input": ("The ledger of units: each input file belongs to one job of a task.", "job_maker"),
    "job_class": ("All jobs with the same leaf, type, requirements and input set.", "job_maker, merger"),
    "class_site": ("May this class run at this site, and why not.", "job_maker"),
    "job": (
        "One unit range of a task, or one merge; the hot row.",
        "job_maker, merger; moved by `store.apply`",
    ),
    "job_spec": ("The cold part of a job: range or inputs, seed, run and lumi.", "job_maker, merger"),
    "job_history": ("Moves of jobs.", "`prodsys.jobs.store`, with each move"),
    "attempt": ("One try of a job, from the claim on.", "`SqlQueuePort` for the prodagent"),
    "output": ("What an attempt writes, planned at the claim.", "`SqlQueuePort`, accountant, merger"),
    "retry_rule": ("Overrides of the retry table.", "`apply`"),
    "port_call": (
        "Answers to lease calls, so that a repeat is harmless.",
        "`SqlQueuePort`; pruned by the janitor",
    ),
    "subscription": ("The standing wish to have a dataset at an SE.", "`subscribe`, block_manager"),
    "subscription_history": ("Moves of subscriptions.", "whoever moves one"),
    "block_dest": ("A wanted replica and the router's last word on it.", "block_manager, router"),
    "route_via": ("Transit space kept for the routes that pass an SE.", "nobody yet"),
    "route_history": ("What the router said when.", "nobody yet"),
    "deletion": ("Replicas somebody wants away: asked for, decided, carried out.", "deleter"),
    "transfer_error": ("Errors of a link by class.", "nobody yet"),
    "group_weight": ("What a group's files are worth in a queue.", "`apply`"),
    "link_use": ("Bytes a group has lately sent over a link.", "nobody yet"),
    "transfer": ("One file, one hop.", "router; claimed and ended by transfer_agent"),
    "link_state": ("What a link has shown: rate, failures, window and why.", "transfer_agent"),
    "link_bin": ("Five-minute sums of ended copies per link.", "transfer_agent"),
}
GENERATED = "<!-- Written by `python -m gridapp.documentation`; a test keeps it so. -->"
_SECTION = "<!-- generated: {} -->\n{}<!-- end of {} -->"


# --- states ------------------------------------------------------------------------------------------------


def states_page() -> str:
    """docs/states.md: per machine its diagram, the meaning of each state and the moves with their guards."""
    parts = [_STATES_HEAD, *(machine_part(one) for one in MACHINES), _PLAIN_HEAD]
    parts += [f"### {_words(kind)}\n\n{_meanings_table(kind)}" for kind in PLAIN]
    return "\n".join(parts)


def meanings(kind: type[StrEnum]) -> dict[str, str]:
    """{member: its sentence}, from the module's MEANING, else from the members' `#:` comments, else from
    clauses of the class's docstring that begin with a member's name; members without any are left out."""
    told = getattr(sys.modules[kind.__module__], "MEANING", {})
    found = {one.name: told[one] for one in kind if one in told}
    return found or _comments(kind) or _clauses(kind)


def _comments(kind: type[StrEnum]) -> dict[str, str]:
    """Comments `#:` on the lines above the members."""
    found: dict[str, str] = {}
    above: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(kind)).readline):
        if token.type == tokenize.COMMENT:
            above.append(token.string.removeprefix("#:").strip())
        elif above and token.type == tokenize.NAME:
            found[token.string] = " ".join(above)
            above = []
    return found


def _clauses(kind: type[StrEnum]) -> dict[str, str]:
    clauses = [clause.strip(" .") for clause in (kind.__doc__ or "").split(";")]
    told = {name: clause for clause in clauses for name in [clause.partition(" ")[0]]}
    return {one.name: f"{told[one.name]}." for one in kind if one.name in told}


def _kind(one: Machine) -> type[StrEnum]:
    kind: type[StrEnum] = type(next(iter(one.rules[0].sources)))
    return kind


def _words(kind: type[StrEnum]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).capitalize()


def machine_part(one: Machine) -> str:
    """A machine as a section of the page."""
    kind = _kind(one)
    table = "\n".join(f"| {line} |" for line in _moves(one.rules))
    return (
        f"## {one.name.capitalize()}\n\n`{kind.__module__}`\n\n```mermaid\n{one.to_mermaid()}\n```\n\n"
        f"{_meanings_table(kind)}\n| From | Event | To | Guard |\n|---|---|---|---|\n{table}\n"
    )


def _moves(rules: Iterable[Rule[Any, Any]]) -> list[str]:
    return [
        f"{', '.join(sorted(line.sources))} | {line.event} | {', '.join(sorted(line.targets))} | {line.guard}"
        for line in rules
    ]


def _meanings_table(kind: type[StrEnum]) -> str:
    told = meanings(kind)
    lines = [f"| `{one.value}` | {told[one.name]} |" for one in kind]
    return "\n".join(["| State | Meaning |", "|---|---|", *lines, ""])


# --- tables ------------------------------------------------------------------------------------------------


def tables_section() -> str:
    """The tables there are, layer by layer, for docs/schema.md. Raises KeyError for a table not described."""
    parts = []
    for package, (module, _) in LAYERS.items():
        mine = [table for table in vars(module).values() if isinstance(table, Table)]
        parts += [f"### {package}\n", *(_table_part(table) for table in mine)]
    return "\n".join(parts)


def _table_part(table: Table) -> str:
    purpose, filled_by = TABLES[table.name]
    lines = [
        f"#### `{table.name}`\n",
        f"{purpose} *Filled by* {filled_by}.\n",
        f"- columns: {', '.join(_column(column) for column in table.columns)}",
        f"- primary key: {_names(table.primary_key.columns)}",
        *(f"- {line}" for line in sorted(_constraints(table))),
        *(f"- index {_index(one)}" for one in sorted(table.indexes, key=lambda one: str(one.name))),
    ]
    return "\n".join([*lines, ""])


def _column(column: Column[Any]) -> str:
    keys = "".join(f" → `{key.column.table.name}`" for key in column.foreign_keys)
    return f"`{column.name}` {_type(column)}{'?' if column.nullable else ''}{keys}"


def _type(column: Column[Any]) -> str:
    kind = column.type
    if isinstance(kind, UtcTime):
        return "time"
    if isinstance(kind, EnumText):
        return kind.enum.__name__
    if isinstance(kind, Json):
        return "JSON"
    length = getattr(kind, "length", None)
    names = {"BigInteger": "int64", "Integer": "int", "Float": "float", "LargeBinary": "bytes"}
    return f"text({length})" if length else names.get(type(kind).__name__, type(kind).__name__)


def _constraints(table: Table) -> Iterable[str]:
    for one in table.constraints:
        if isinstance(one, UniqueConstraint):
            yield f"unique: {_names(one.columns)}"
        elif isinstance(one, CheckConstraint):
            yield f"check: `{one.sqltext}`"


def _index(one: Index) -> str:
    where = one.dialect_options["postgresql"]["where"]
    return f"`{one.name}`: {_names(one.columns)}" + (f" where `{where}`" if where is not None else "")


def _names(columns: Iterable[Column[Any]]) -> str:
    return ", ".join(f"`{column.name}`" for column in columns)


# --- invariants --------------------------------------------------------------------------------------------


def invariants_section() -> str:
    """All invariants, layer by layer, for docs/operations.md."""
    lines = ["| Layer | Name | What always holds |", "|---|---|---|"]
    for package, (_, invariants) in LAYERS.items():
        lines += [f"| {package} | `{one.name}` | {one.says} |" for one in invariants]
    return "\n".join([*lines, ""])


# --- writing -----------------------------------------------------------------------------------------------


def with_section(page: str, name: str, content: str) -> str:
    """The page with the generated section of that name replaced. Raises ValueError where it has none."""
    new = _SECTION.format(name, content, name)
    pattern = re.escape(f"<!-- generated: {name} -->") + ".*?" + re.escape(f"<!-- end of {name} -->")
    replaced, found = re.subn(pattern, lambda _: new, page, flags=re.DOTALL)
    if found != 1:
        raise ValueError(f"the page has {found} sections {name}")
    return replaced


def pages(docs: Path) -> dict[Path, str]:
    """{path: text} of every page in `docs` that is generated, whole or in part."""
    schema, operations = docs / "schema.md", docs / "operations.md"
    return {
        docs / "cli.md": reference.document(),
        docs / "metrics.md": metrics.document(),
        docs / "operations.md": with_section(operations.read_text(), "invariants", invariants_section()),
        docs / "schema.md": with_section(schema.read_text(), "tables", tables_section()),
        docs / "settings.md": settings.document(),
        docs / "states.md": states_page(),
    }


def undescribed() -> set[str]:
    """Tables without a description, and descriptions without a table."""
    return set(metadata.tables) ^ set(TABLES)


_STATES_HEAD = f"""# States

{GENERATED}

Every state machine of Tierflow, drawn from the table that the code itself asks (`gridcore.states`). An event
that is not on an edge is refused; where an event has several targets, a pure rule decides. *Guard* says whose
word moves it: the worker's of the current *attempt*, the owner's of a *lease*, a claim under the lock of the
*queue*, or a person's, which is audited.
"""
_PLAIN_HEAD = """## States without a machine

A dataset is opened and closed by its owner, who also says what it is good for; a wish is answered once.
"""


def main() -> None:
    """Write the generated pages of the checkout in the current directory."""
    for path, text in pages(Path("docs")).items():
        path.write_text(text)


if __name__ == "__main__":
    main()
