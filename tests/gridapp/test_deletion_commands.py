"""Deletions by hand: asked for, looked at before, listed, approved, denied, taken back; who may what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embedded_grid
import pytest
from catalog_rows import DATASET, NOW, SE, Shelf
from click.testing import CliRunner
from sqlalchemy import Connection

from catalogs import bookkeeping, replicas
from catalogs.replicas import Begin
from gridapp.cli.main import main
from gridapp.invariants import INVARIANTS
from gridcore.db import insert_rows
from gridcore.db.invariants import violations
from gridcore.tables import account_role

OTHER = "T2_DE_Ash_Disk"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("deletions") / "grid")


@pytest.fixture
def grid(template: Path, tmp_path: Path) -> Path:
    return embedded_grid.copy(template, tmp_path / "grid")


@pytest.fixture
def shelf(grid: Path) -> Iterator[Shelf]:
    """A closed block at Alder and Ash."""
    with Shelf.at(grid) as made:
        made.register(2)
        open_block = made.read(lambda conn: conn.exec_driver_sql("SELECT id, name FROM block").one())
        made.do(bookkeeping.close_blocks, [open_block.id], "files", NOW)
        copy(made, open_block.id)
        yield made
        with made.database.snapshot() as conn:
            assert violations(conn, INVARIANTS) == []


def copy(shelf: Shelf, block_id: int) -> None:
    there = shelf.se(OTHER).id
    shelf.do(replicas.begin_all, [Begin(block_id, there)], NOW)
    shelf.do(replicas.complete_all, {(block_id, there): 1}, NOW)


def run(grid: Path, *args: object) -> Any:
    return CliRunner().invoke(main, ["--dir", str(grid), *map(str, args)])


def answer(grid: Path, *args: object) -> Any:
    result = run(grid, *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_from_asking_to_taking_back(grid: Path, shelf: Shelf) -> None:
    looked = answer(grid, "delete", DATASET, OTHER, "--dry-run")
    assert looked["removed"] == {"blocks": 1, "files": 2, "bytes": 20}
    assert answer(grid, "deletion", "list") == []
    made = answer(grid, "delete", DATASET, OTHER, "--comment", "full")
    assert (made["state"], made["replicas"], made["files"]) == ("APPROVED", 1, 2)
    (line,) = answer(grid, "deletion", "list")
    assert (line["id"], line["se"], line["files_left"]) == (made["deletion"], OTHER, 2)
    assert line["reason"].startswith("it is deleted at 20")
    shown = answer(grid, "deletion", "show", made["deletion"])
    assert (shown["comments"], shown["states"], shown["files_left"]) == ("full", {"APPROVED": 1}, 2)
    again = answer(grid, "delete", DATASET, OTHER)
    assert [again[name] for name in ("deletion", "state", "due_at")] == [
        made[name] for name in ("deletion", "state", "due_at")
    ]
    assert answer(grid, "deletion", "undo", made["deletion"])["changed"] == 1
    assert answer(grid, "deletion", "undo", made["deletion"])["changed"] == 0
    assert answer(grid, "deletion", "list") == []
    (undone,) = answer(grid, "deletion", "list", "--state", "undone")
    assert undone["id"] == made["deletion"]
    assert shelf.audited() == ["delete", "deletion undo"]


def test_a_word_that_comes_too_late_is_an_error(grid: Path, shelf: Shelf) -> None:
    made = answer(grid, "delete", DATASET, OTHER)
    late = run(grid, "deletion", "deny", made["deletion"])
    assert late.exit_code == 1
    assert f"deletion {made['deletion']} is APPROVED: there is nothing to deny" in late.stderr
    answer(grid, "deletion", "undo", made["deletion"])
    assert "is UNDONE" in run(grid, "deletion", "approve", made["deletion"]).stderr


def test_the_same_order_again_tells_what_became_of_it(grid: Path, shelf: Shelf) -> None:
    order = ("delete", DATASET, OTHER, "--ask-id", "one")
    made = answer(grid, *order)
    answer(grid, "deletion", "undo", made["deletion"])
    again = answer(grid, *order)
    assert (again["deletion"], again["state"]) == (made["deletion"], "UNDONE")
    assert answer(grid, "deletion", "list") == []
    assert shelf.audited() == ["delete", "deletion undo"]


def test_what_must_stay_is_told_at_once(grid: Path, shelf: Shelf) -> None:
    answer(grid, "delete", DATASET, OTHER)
    refused = run(grid, "delete", DATASET, SE)
    assert refused.exit_code == 1
    assert "1 block: it is the last complete replica of its block" in refused.stderr
    assert "tierflow block show" in refused.stderr
    (name,) = shelf.read(lambda conn: conn.exec_driver_sql("SELECT name FROM block").one())
    looked = answer(grid, "delete", name, SE, "--dry-run")
    assert looked["removed"]["blocks"] == 0
    assert "last complete replica" in looked["warnings"][0]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("/No/Such/RAW", SE), 3, "there is no dataset"),
        ((DATASET, "T9_Nowhere"), 3, "there is no storage element"),
        ((f"{DATASET}#none", SE), 3, "there is no block"),
        ((DATASET, "T0_CH_Oak_Disk"), 3, "has no complete replica at T0_CH_Oak_Disk"),
    ],
)
def test_unknown_names(grid: Path, shelf: Shelf, args: tuple[str, str], code: int, says: str) -> None:
    result = run(grid, "delete", *args)
    assert result.exit_code == code
    assert says in result.stderr


@pytest.mark.parametrize("words", [("--comment", "x" * 501), ("--comment", "a\nb"), ("--ask-id", "x" * 37)])
def test_words_that_cannot_be_kept(grid: Path, shelf: Shelf, words: tuple[str, str]) -> None:
    refused = run(grid, "delete", DATASET, OTHER, *words)
    assert refused.exit_code == 2
    assert answer(grid, "deletion", "list") == []


def test_without_the_right_one_may_ask_but_not_decide(grid: Path, shelf: Shelf) -> None:
    keep_only(shelf, "user")
    made = answer(grid, "delete", DATASET, OTHER)
    assert (made["state"], made["due_at"]) == ("ASKED", None)
    (line,) = answer(grid, "deletion", "list", "--state", "asked")
    assert line["reason"].startswith(f"waits for approval at {OTHER}")
    for verb in ("approve", "deny"):
        denied = run(grid, "deletion", verb, made["deletion"])
        assert denied.exit_code == 4
        assert "site_admin" in denied.stderr
    keep_only(shelf, "operator")
    assert answer(grid, "deletion", "approve", made["deletion"])["changed"] == 1
    assert answer(grid, "deletion", "approve", made["deletion"])["changed"] == 0
    keep_only(shelf, "user")
    assert answer(grid, "deletion", "undo", made["deletion"])["changed"] == 1
    again = answer(grid, "delete", DATASET, OTHER)
    keep_only(shelf, "operator")
    assert answer(grid, "deletion", "deny", again["deletion"], "--note", "needed")["changed"] == 1
    (shown,) = answer(grid, "deletion", "show", again["deletion"])["replica_list"]
    assert "said no: needed" in shown["reason"]
    keep_only(shelf, "viewer")
    assert run(grid, "delete", DATASET, OTHER).exit_code == 4
    assert run(grid, "deletion", "show", 10**6).exit_code == 3
    assert run(grid, "deletion", "approve", 10**6).exit_code == 3


def keep_only(shelf: Shelf, role: str) -> None:
    """Everybody has this role, everywhere, and no other."""

    def unit(conn: Connection) -> None:
        account = conn.exec_driver_sql("SELECT min(account) FROM account_role").scalar_one()
        conn.exec_driver_sql("DELETE FROM account_role WHERE acct_role NOT IN ('login', 'member')")
        insert_rows(conn, account_role, [{"account": account, "acct_group": "*", "acct_role": role}])

    shelf.do(unit)
