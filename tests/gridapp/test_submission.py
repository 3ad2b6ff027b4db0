"""Requests and tasks handed in: at once or waiting, once or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import embedded_grid
import pytest
from sqlalchemy import Connection, func, select, update

from agents.runtime.agent import Context
from catalogs.tables import dataset, site
from gridapp import session, submission, wiring
from gridapp.installation import Installation
from gridapp.invariants import INVARIANTS
from gridcore.db.invariants import violations
from gridcore.errors import Conflict, Denied, GridError, InvalidTransition, NotFound, UsageError
from gridcore.identity import EVERYWHERE, Principal, Role
from prodsys.tables import endpoint, request, request_history, sandbox, task
from prodsys.tasks.workflow import Request

OPERATOR = Principal("ops", roles={EVERYWHERE: frozenset([Role.PRODUCTION, Role.OPERATOR])})
USER = Principal("ann", frozenset(["production"]), {EVERYWHERE: frozenset([Role.USER])})
VIEWER = Principal("eve", roles={EVERYWHERE: frozenset([Role.VIEWER])})
OWN_AREA = embedded_grid.REQUEST.replace("/store/mc", "/store/user/ann")


@dataclass
class Grid:
    installation: Installation
    context: Context
    path: Path

    def request(self, actor: Principal, client_id: str | None = None) -> dict[str, object]:
        return submission.submit_request(self.installation, self.context, self.path, actor, client_id)

    def task(self, actor: Principal) -> dict[str, object]:
        return submission.submit_task(self.installation, self.context, self.path, actor)

    def rows(self) -> list[int]:
        """How many requests, moves, tasks, sandboxes and datasets there are."""
        with self.installation.database.snapshot() as conn:
            tables = (request, request_history, task, sandbox, dataset)
            return [conn.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("template") / "grid")


@pytest.fixture
def grid(template: Path, tmp_path: Path) -> Iterator[Grid]:
    installation = session.connect(embedded_grid.copy(template, tmp_path / "grid"), None)
    yield Grid(installation, wiring.context(installation), embedded_grid.write_request(tmp_path))
    with installation.database.snapshot() as conn:
        assert violations(conn, INVARIANTS) == []
    installation.close()


def test_who_may_approve_has_the_request_run_at_once(grid: Grid) -> None:
    made = grid.request(OPERATOR)
    assert made["state"] == "RUNNING"
    assert [name.partition(":")[2] for name in made["tasks"]] == ["ops_small-generate"]  # type: ignore[attr-defined]
    assert grid.rows() == [1, 4, 1, 1, 1]


def test_others_wait_for_approval(grid: Grid) -> None:
    made = grid.request(USER)
    assert (made["state"], made["tasks"]) == ("SUBMITTED", [])
    approved = submission.approve(grid.installation, grid.context, int(str(made["request"])), OPERATOR)
    assert approved["state"] == "RUNNING"
    assert [name.partition(":")[2] for name in approved["tasks"]] == ["ann_small-generate"]


def test_rejected_once_and_for_all(grid: Grid) -> None:
    made = int(str(grid.request(USER)["request"]))
    assert submission.reject(grid.installation, grid.context, made, OPERATOR)["state"] == "REJECTED"
    with pytest.raises(InvalidTransition):
        submission.approve(grid.installation, grid.context, made, OPERATOR)
    assert grid.rows() == [1, 2, 0, 1, 0]


def test_deciding_takes_the_role_and_a_request(grid: Grid) -> None:
    made = int(str(grid.request(USER)["request"]))
    with pytest.raises(Denied):
        submission.approve(grid.installation, grid.context, made, USER)
    with pytest.raises(Denied):
        submission.reject(grid.installation, grid.context, made, USER)
    with pytest.raises(NotFound):
        submission.approve(grid.installation, grid.context, made + 1, OPERATOR)


def test_a_repeat_changes_nothing(grid: Grid) -> None:
    first = grid.request(OPERATOR, "mine")
    before = grid.rows()
    assert grid.request(OPERATOR, "mine") == first
    assert grid.rows() == before


def test_a_client_id_belongs_to_one_document(grid: Grid) -> None:
    grid.request(OPERATOR, "mine")
    grid.path.write_text(embedded_grid.REQUEST.replace("40", "50"))
    with pytest.raises(Conflict):
        grid.request(OPERATOR, "mine")


@pytest.mark.parametrize("client_id", ["", "x" * 65, "two words", "a\x1b[2J"])
def test_client_ids_are_short_and_printable(grid: Grid, client_id: str) -> None:
    with pytest.raises(UsageError, match="client id"):
        grid.request(OPERATOR, client_id)


def test_a_physicists_task_needs_no_approval(grid: Grid) -> None:
    grid.path.write_text(OWN_AREA)
    made = grid.task(USER)
    assert made["state"] == "RUNNING"
    with grid.installation.database.snapshot() as conn:
        assert conn.execute(select(task.c.task_type, task.c.requester)).all() == [("analysis", "ann")]


def test_a_task_has_one_step(grid: Grid) -> None:
    step = embedded_grid.REQUEST[embedded_grid.REQUEST.index("[[step]]") :]
    second = step.replace("generate", "again").replace("/Small/", "/Other/")
    grid.path.write_text(embedded_grid.REQUEST + second)
    with pytest.raises(UsageError, match="2"):
        grid.task(OPERATOR)


def test_a_task_writes_only_where_its_owner_may(grid: Grid) -> None:
    with pytest.raises(Denied, match="/store/mc") as error:
        grid.task(USER)
    assert "/store/user/ann" in str(error.value.hint)
    assert grid.rows() == [0, 0, 0, 0, 0]


BAD = {
    "events = 40": ("events = 0", "events"),
    'group = "production"': ('group = "nobody"', "nobody"),
    "[[step]]": ("surprise = 1\n[[step]]", "surprise"),
    'sandbox = ["make.py"]': ('sandbox = ["gone.py"]', "gone.py"),
    "events_per_job = 10": ('events_per_job = 10\nsites = ["T2_XX_Nowhere"]', "T2_XX_Nowhere"),
    "/Small/Test-v1/GEN": ("/Small/lower/gen", "dataset"),
    '"make.py"]\nsandbox': ('"other.py"]\nsandbox', "other.py"),
    "/store/mc": ("/store/mc" + 3 * f"/{'a' * 150}", "characters is too long"),
}


@pytest.mark.parametrize("good", BAD)
def test_nothing_is_half_created_on_bad_input(grid: Grid, good: str) -> None:
    bad, told = BAD[good]
    assert good in embedded_grid.REQUEST
    grid.path.write_text(embedded_grid.REQUEST.replace(good, bad, 1))
    with pytest.raises(UsageError) as error:
        grid.request(OPERATOR)
    assert told in error.value.message
    assert str(grid.path) in error.value.message
    assert "\n" not in error.value.message
    assert grid.rows() == [0, 0, 0, 0, 0]


def test_viewers_hand_in_nothing(grid: Grid) -> None:
    for hand_in in (grid.request, grid.task):
        with pytest.raises(GridError) as error:
            hand_in(VIEWER)
        assert error.value.exit_code == 4


def test_nobody_else_reads_the_database(grid: Grid) -> None:
    grid.request(OPERATOR)
    files = list(grid.installation.settings.dir.glob("tierflow.db*"))
    assert {path.name for path in files} >= {"tierflow.db", "tierflow.db-wal"}
    assert [path for path in files if path.stat().st_mode & 0o077] == []


def test_a_draft_becomes_a_request_and_may_be_taken_back(grid: Grid) -> None:
    shell, context = grid.installation, grid.context
    made = submission.submit_request(shell, context, grid.path, USER, draft=True)
    key = int(str(made["request"]))
    assert (made["state"], grid.rows()) == ("DRAFT", [1, 1, 0, 1, 0])
    for decide in (submission.approve, submission.reject):
        with pytest.raises(InvalidTransition):
            decide(shell, context, key, OPERATOR)
    with pytest.raises(Denied):
        submission.hand_in(shell, context, key, VIEWER)
    assert submission.hand_in(shell, context, key, USER)["state"] == "SUBMITTED"
    with pytest.raises(Denied):
        submission.withdraw(shell, context, key, VIEWER)
    assert submission.withdraw(shell, context, key, USER)["state"] == "DRAFT"
    assert submission.hand_in(shell, context, key, OPERATOR)["state"] == "RUNNING"
    assert grid.rows()[2:] == [1, 1, 1]
    with pytest.raises(InvalidTransition):
        submission.withdraw(shell, context, key, USER)


def test_a_draft_is_edited_until_it_is_handed_in(grid: Grid) -> None:
    shell, context = grid.installation, grid.context
    key = int(str(submission.submit_request(shell, context, grid.path, USER, draft=True)["request"]))
    grid.path.write_text(embedded_grid.REQUEST.replace('"small"', '"large"').replace("= 40", "= 80"))
    with pytest.raises(Denied):
        submission.edit(shell, context, key, grid.path, VIEWER)
    assert submission.edit(shell, context, key, grid.path, USER)["name"] == "large"
    grid.path.write_text(embedded_grid.REQUEST.replace('group = "production"', 'group = "nobody"'))
    with pytest.raises(UsageError, match="nobody"):
        submission.edit(shell, context, key, grid.path, USER)
    submission.hand_in(shell, context, key, OPERATOR)
    with shell.database.snapshot() as conn:
        assert conn.execute(select(task.c.units_total)).scalars().all() == [80]
    with pytest.raises(Conflict, match="only a draft"):
        submission.edit(shell, context, key, grid.path, USER)


def test_a_draft_whose_names_are_taken_meanwhile_is_refused(grid: Grid) -> None:
    made = submission.submit_request(grid.installation, grid.context, grid.path, USER, draft=True)
    grid.request(OPERATOR)
    with pytest.raises(UsageError, match="exists"):
        submission.hand_in(grid.installation, grid.context, int(str(made["request"])), USER)


def test_a_task_of_too_many_jobs_is_refused_with_its_step(grid: Grid) -> None:
    grid.path.write_text(embedded_grid.REQUEST.replace("events = 40", "events = 10_000_000"))
    with pytest.raises(UsageError, match=r"step 'generate'.*1,000,000 jobs"):
        grid.request(OPERATOR)
    assert grid.rows() == [0, 0, 0, 0, 0]


def test_only_what_was_looked_at_is_approved(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner takes it back and writes it anew while the one who decides still looks at it."""
    shell, context = grid.installation, grid.context
    key = int(str(grid.request(USER)["request"]))
    look = submission._check_area

    def meanwhile(actor: Principal, document: Request) -> None:
        look(actor, document)
        monkeypatch.undo()
        submission.withdraw(shell, context, key, USER)
        grid.path.write_text(embedded_grid.REQUEST.replace("/store/mc", "/store/data"))
        submission.edit(shell, context, key, grid.path, USER)
        submission.hand_in(shell, context, key, USER)

    monkeypatch.setattr(submission, "_check_area", meanwhile)
    with pytest.raises(Conflict, match="changed just now"):
        submission.approve(shell, context, key, OPERATOR)
    assert grid.rows()[2] == 0
    assert submission.approve(shell, context, key, OPERATOR)["state"] == "RUNNING"


def test_a_site_left_by_the_decision_has_to_be_able_to_run_it(grid: Grid) -> None:
    def offer(conn: Connection) -> str:
        first = conn.execute(select(site.c.id, site.c.name).order_by(site.c.id)).first()
        assert first is not None
        small = update(endpoint).where(endpoint.c.site_id == first.id)
        conn.execute(small.values(offer={"memory_mb_per_core": 1000}))
        return str(first.name)

    grid.path.write_text(embedded_grid.REQUEST.replace("wall_s = 600", "wall_s = 600, memory_mb = 2000"))
    key = int(str(grid.request(USER)["request"]))
    name = grid.installation.database.transaction(offer)
    with pytest.raises(UsageError, match="can run at no site"):
        submission.approve(grid.installation, grid.context, key, OPERATOR, assigned=[name])
    assert grid.rows()[2:] == [0, 1, 0]
