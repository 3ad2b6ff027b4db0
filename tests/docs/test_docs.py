"""The documentation says what the code says: generated pages, names, links, commands."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import click
import pytest

from agents.runtime.agent import Agent
from gridapp import documentation, wiring
from gridapp.cli.main import main
from gridcore.db.types import metadata
from gridcore.ids import check_dataset
from gridcore.states import StateMachine, rule

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PACKAGES = "gridcore|catalogs|prodsys|datamgmt|agents|gridapp"
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")
NAME = re.compile(rf"`((?:{PACKAGES})(?:\.\w+)+)`")
FILE = re.compile(rf"`((?:{PACKAGES}|bin|etc|docs|tests)/[\w./*-]*)`")
SETTING = re.compile(r"`((?:database|lease|work|agent|retry|block|transfer|api|log)\.\w+)`")
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"`(tierflow [^`]*)`")
#: Of the vocabulary everybody agreed on.
TERMS = """Request, Task, Job, Attempt, Job class, Lease, Endpoint, Executor, Site, Storage element (SE),
Link, Dataset, Block, File, Replica, Subscription, Transfer, Wish, Unit, LFN, PFN, TFC, Fence, ProdManager,
ProdAgent"""


class Light(StrEnum):
    """OFF is dark; ON shines."""

    OFF = "OFF"
    ON = "ON"


class Flash(StrEnum):
    """What happens to it."""

    SWITCH = "switch"


def anchors(text: str) -> set[str]:
    """The headings of a page as links name them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def found(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """(page, first group) of every match in the pages."""
    for page in PAGES:
        for match in pattern.finditer(page.read_text()):
            yield page.name, match[1]


def resolve(name: str) -> object:
    """The module, function, class or method of a dotted name."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            thing = getattr(thing, part)
        return thing
    raise ModuleNotFoundError(name)


def command(words: list[str]) -> click.Command:
    """The command that the words of a line call. Raises LookupError for an unknown one or its option."""
    group: click.Command = main
    context = click.Context(main)
    rest = words[1:]
    while rest:
        word = rest.pop(0)
        if word in ("--dir", "--config"):
            rest.pop(0)
        elif word.startswith("--"):
            known = {"--help", *(option for one in group.params for option in one.opts)}
            if word.partition("=")[0] not in known:
                raise LookupError(f"{' '.join(words)}: no option {word}")
        elif isinstance(group, click.Group):
            inner = group.get_command(context, word)
            if inner is None:
                raise LookupError(f"{' '.join(words)}: no command {word}")
            group = inner
    return group


def shell_lines() -> Iterator[tuple[str, list[str]]]:
    for page, block in found(SHELL):
        for line in block.splitlines():
            words = line.partition("#")[0].split()
            if words:
                yield page, words


# --- generated ---------------------------------------------------------------------------------------------


def test_generated_pages_are_up_to_date():
    stale = [path.name for path, text in documentation.pages(DOCS).items() if path.read_text() != text]
    assert stale == [], "run: python -m gridapp.documentation"


def test_every_table_is_described_and_no_other():
    assert documentation.undescribed() == set()


def test_every_machine_of_the_product_is_drawn():
    machines = {
        id(value)
        for name, module in sorted(sys.modules.items())
        if re.match(rf"({PACKAGES})\b", name)
        for value in vars(module).values()
        if isinstance(value, StateMachine)
    }
    assert machines == {id(one) for one in documentation.MACHINES}


def test_every_state_has_its_sentence():
    kinds = [type(next(iter(one.rules[0].sources))) for one in documentation.MACHINES]
    for kind in [*kinds, *documentation.PLAIN]:
        told = documentation.meanings(kind)
        assert set(told) == set(kind.__members__)
        assert all(sentence.endswith(".") for sentence in told.values())


def test_a_machine_is_drawn_whole():
    machine = StateMachine("light", [rule(Light.OFF, Flash.SWITCH, Light.ON, "owner")], final=[Light.ON])
    part = documentation.machine_part(machine)
    assert "    OFF --> ON: switch\n    ON --> [*]" in part
    assert "| `ON` | ON shines. |" in part
    assert "| OFF | switch | ON | owner |" in part


def test_a_section_is_replaced_where_it_stands():
    page = "a\n<!-- generated: x -->\nold\n<!-- end of x -->\nb\n"
    once = documentation.with_section(page, "x", "new \\1\n")
    assert once == "a\n<!-- generated: x -->\nnew \\1\n<!-- end of x -->\nb\n"
    assert documentation.with_section(once, "x", "new \\1\n") == once
    with pytest.raises(ValueError, match="0 sections y"):
        documentation.with_section(page, "y", "")


# --- by hand -----------------------------------------------------------------------------------------------


def test_links_lead_somewhere():
    broken = []
    for page in PAGES:
        for target, anchor in LINK.findall(page.read_text()):
            path = (page.parent / target) if target else page
            if not path.exists():
                broken.append(f"{page.name}: {target}")
            elif anchor and anchor[1:] not in anchors(path.read_text()):
                broken.append(f"{page.name}: {target}{anchor}")
    assert broken == []


def test_the_readme_leads_to_every_page():
    targets = {target for target, _ in LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= targets


def test_names_of_the_code_exist():
    names = set(found(NAME))
    assert len(names) > 100
    for page, name in sorted(names):
        try:
            resolve(name)
        except (ModuleNotFoundError, AttributeError) as error:
            pytest.fail(f"{page}: {name}: {error}")


def test_files_named_exist():
    for page, name in found(FILE):
        assert list(ROOT.glob(name)), f"{page}: {name}"


def test_settings_named_exist():
    known = (DOCS / "settings.md").read_text()
    for page, name in found(SETTING):
        assert f"| `{name}` |" in known, f"{page}: {name}"


def test_every_agent_is_in_the_table_of_daemons():
    classes = [one for one in vars(wiring).values() if isinstance(one, type) and issubclass(one, Agent)]
    names = {one.name for one in classes if one is not Agent}
    rows = re.findall(r"^\| `(\w+)` \|.*\|$", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    assert set(rows) == names
    assert len(rows) == len(names) == 9


def test_tables_in_the_table_of_daemons_exist():
    page = (DOCS / "architecture.md").read_text()
    for line in re.findall(r"^\| `\w+` \|(.*)\|$", page, re.MULTILINE):
        _, reads, writes, _ = line.split(" | ")
        assert {*reads.split(", "), *writes.split(", ")} <= set(metadata.tables)


def test_tables_to_come_have_not_come():
    page = (DOCS / "schema.md").read_text().partition("## Tables to come")[2]
    names = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert len(names) > 15
    assert names.isdisjoint(metadata.tables)
    assert all(len(name) <= 30 for name in names)


def test_the_glossary_has_the_vocabulary():
    rows = re.findall(r"^\| ([^|]+) \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    told = {term for row in rows for term in row.split(", ")}
    assert {" ".join(term.split()) for term in TERMS.split(",")} - told == set()


def test_commands_shown_exist():
    lines = [(page, words) for page, words in shell_lines() if words[0].endswith("tierflow")]
    assert len(lines) > 5
    lines += [(page, line.split()) for page, line in found(COMMAND)]
    for page, words in lines:
        try:
            command(words)
        except LookupError as error:
            pytest.fail(f"{page}: {error}")


def test_a_wrong_command_would_be_found():
    assert command(["tierflow", "--dir", "X", "task", "list"]).name == "list"
    for wrong in (["tierflow", "tusk"], ["tierflow", "task", "lost"], ["tierflow", "demo", "--fault"]):
        with pytest.raises(LookupError):
            command(wrong)


def test_scripts_and_files_in_shell_lines_exist():
    for page, words in shell_lines():
        for word in words:
            if re.match(r"(bin|etc|tests)/", word):
                assert (ROOT / word).exists(), f"{page}: {word}"


def test_examples_are_well_formed():
    for _, words in shell_lines():
        for word in words:
            if word.startswith("/") and "@" in word:
                check_dataset(word.partition("@")[0])


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80


def test_decisions_are_whole_and_listed():
    pages = sorted((DOCS / "adr").glob("*.md"))
    index = pages[0].read_text()
    for number, page in enumerate(pages, start=1):
        text = page.read_text()
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert {"context", "decision", "rejected-ideas"} <= anchors(text)
        assert page is pages[0] or f"({page.name})" in index


def test_the_picture_is_svg_and_names_the_sites():
    from defusedxml.ElementTree import parse

    words = " ".join(parse(DOCS / "demo.svg").getroot().itertext())
    grid = (ROOT / "etc/embedded/grid.toml").read_text()
    sites = re.findall(r'^name = "(T\d)_\w\w_([A-Za-z]+)"$', grid, re.MULTILINE)
    assert len(sites) == 6
    for tier, name in sites:
        assert f"{tier} {name}" in words
