"""Reading a directory: what it means, and one line with file, key and cure for whatever it must not hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs.sites import StorageElement
from catalogs.states import Switch
from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.lint import lint
from gridapp.topology.diff import difference, settled, summary
from gridapp.topology.items import StorageItem
from gridapp.topology.reader import GRID_FILE, Topology, read_topology
from gridapp.topology.writer import to_toml, write_topology
from gridcore.errors import UsageError
from gridcore.identity import Role, local_principal
from gridcore.ids import output_lfn
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass

EMBEDDED = Path(__file__).parents[2] / "etc" / "embedded"
GRID = """
[[site]]
name = "T1_DE_Alder"

[[site]]
name = "T2_FR_Birch"
state = "DISABLED"
note = "a new roof"

[[se]]
name = "Alder"
site = "T1_DE_Alder"
storage = "tfc/plain.xml"
root = "${TIERFLOW_DIR}/alder"
transit_bytes = 1000

[[se]]
name = "Birch"
site = "T2_FR_Birch"
storage = "tfc/birch.xml"

[[link]]
a = "Alder"
b = "Birch"
distance = 2

[[endpoint]]
name = "birch"
site = "T2_FR_Birch"
slots = 4
offer = { cores_max = 2, platforms = ["x86_64"] }
config = { queue = "long \\"one\\"", retries = [1, 2.5, true] }

[[share]]
group = "production"
target = 70

[[account]]
name = "ops"
login = "*"
groups = ["production"]
roles = { "production" = ["production"], "*" = ["operator"], "T1_DE_Alder" = ["site_admin"] }

[[retry]]
error_class = "payload"
max_retries = 9
"""
PLAIN = """<storage-mapping>
  <lfn-to-pfn protocol="local" path-match="^/store/(.*)$" result="${TIERFLOW_DIR}/data/$1"/>
  <pfn-to-lfn protocol="local" path-match="^${TIERFLOW_DIR}/data/(.*)$" result="/store/$1"/>
</storage-mapping>
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    (tmp_path / "tfc").mkdir()
    (tmp_path / "tfc/plain.xml").write_text(PLAIN)
    (tmp_path / "tfc/birch.xml").write_text(PLAIN.replace("/data/", "/birch/"))
    (tmp_path / GRID_FILE).write_text(GRID)
    return tmp_path


def read(directory: Path, home: str = "/grid") -> Topology:
    return read_topology(directory, {"TIERFLOW_DIR": home})


def catalog(item: StorageItem) -> TrivialCatalog:
    element = StorageElement(
        id=1, name=item.name, site_id=1, kind=item.kind, protocol=item.protocol, tfc=item.tfc
    )
    return element.catalog


def refused(directory: Path) -> str:
    """The one line of the refusal, with its cure."""
    with pytest.raises(UsageError) as caught:
        read(directory)
    assert caught.value.hint or re.search("should|not a valid", caught.value.message)
    assert "\n" not in caught.value.message
    return f"{caught.value.message}; {caught.value.hint}"


# --- the embedded grid -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> Topology:
    return read(EMBEDDED, "/home/a+b/my grid")


def test_the_embedded_grid_has_the_links_it_should(embedded: Topology) -> None:
    pairs = [("Oak", "Alder"), ("Oak", "Beech"), ("Alder", "Beech"), ("Alder", "Ash"), ("Alder", "Aspen")]
    pairs.append(("Beech", "Birch"))
    found = {tuple(re.findall(r"_([A-Z][a-z]+)_Disk", name)) for name in embedded.link}
    assert found == {*pairs, *((b, a) for a, b in pairs)}
    assert sorted(name[:2] for name in embedded.site) == ["T0", "T1", "T1", "T2", "T2", "T2"]


def test_the_embedded_grid_is_of_one_user_and_can_run_jobs(embedded: Topology) -> None:
    ops = local_principal("whoever", [one.account() for one in embedded.account.values()])
    assert ops.name == "ops"
    assert ops.groups == set(embedded.share) == {"production", "analysis"}
    assert ops.holds(Role.OPERATOR)
    assert ops.holds(Role.PRODUCTION)
    assert {one.site for one in embedded.endpoint.values()} == set(embedded.site)
    assert all(one.slots == 1 and one.kind == "local" for one in embedded.endpoint.values())


def test_the_embedded_catalogues_differ_and_lead_back(embedded: Topology) -> None:
    lfns = [
        output_lfn("/store/unmerged/mc", "260101_000000:ops_auau-gen", 17, 2, "out", "root"),
        output_lfn("/store/mc/AuAu", "260101_000000:ops_auau-gen", 1017, 1, "merged", "root"),
        "/store/user/ops/plain",
        "/store/a.b",
        "/store/Top/x",
    ]
    layouts = set()
    for item in embedded.se.values():
        rules = catalog(item)
        assert lint(rules, lfns) == []
        assert item.root == f"/home/a+b/my grid/storage/{item.name}"
        pfns = [rules.pfn(lfn, item.protocol).pfn for lfn in lfns]
        assert all(pfn.startswith(f"{item.root}/") for pfn in pfns)
        assert len(set(pfns)) == len(lfns)
        layouts.add(tuple(pfn.removeprefix(str(item.root)) for pfn in pfns))
        assert item.transit_bytes > 0
    assert len(layouts) == len(embedded.se) == 6


# --- what is read ------------------------------------------------------------------------------------


def test_a_directory_is_read(grid: Path) -> None:
    topology = read(grid)
    assert topology.site["T2_FR_Birch"].state is Switch.DISABLED
    assert topology.site["T1_DE_Alder"].state is None
    assert topology.se["Alder"].root == "/grid/alder"
    assert set(topology.link) == {"Alder -> Birch", "Birch -> Alder"}
    assert topology.endpoint["birch"].offer == {"cores_max": 2, "platforms": ["x86_64"]}
    assert topology.account["ops"].account().principal.roles["*"] == {Role.OPERATOR}
    rule = topology.retry["payload"].rule
    assert (rule.max_retries, rule.delay_s) == (9, DEFAULT_RULES[ErrorClass.PAYLOAD].delay_s)


def test_files_are_merged_but_for_the_settings(grid: Path) -> None:
    (grid / "more.toml").write_text('[[site]]\nname = "T2_DE_Ash"\n')
    (grid / "tierflow.toml").write_text("[agent]\ncycle_s = 1\n")
    assert len(read(grid).site) == 3


@settings(max_examples=30)
@given(home=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30))
def test_the_directory_may_have_any_name(home: str) -> None:
    """Characters that mean something in patterns, results or XML are taken for what they are."""
    home = "/" + re.sub(r"\.\.|%", "x", home.replace("${", "$")).strip("/.")
    topology = read(EMBEDDED, home)
    for item in topology.se.values():
        rules = catalog(item)
        pfn = rules.pfn("/store/mc/x_1.root", "local").pfn
        assert pfn.startswith(f"{home}/storage/{item.name}/")
        assert rules.lfn(pfn, "local") == "/store/mc/x_1.root"


def test_what_is_written_reads_back(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    topology = read(grid)
    copy = tmp_path_factory.mktemp("copy") / "deep"
    write_topology(topology, copy)
    again = read_topology(copy, {})
    assert again == topology
    assert again.digest() == topology.digest() != read(grid, "/elsewhere").digest()
    assert to_toml(again) == (copy / GRID_FILE).read_text()
    write_topology(topology, copy)


def test_nothing_is_written_beside_another_topology(grid: Path) -> None:
    topology = read(grid)
    (grid / "more.toml").write_text("")
    with pytest.raises(UsageError, match=r"more\.toml"):
        write_topology(topology, grid)


def test_what_the_files_do_not_say_stays(grid: Path) -> None:
    new = read(grid)
    off = new.link["Alder -> Birch"].__class__(
        src="Alder", dst="Birch", distance=2.0, tool="local", state=Switch.DISABLED, note="cable cut"
    )
    old = settled(new, new)
    old = type(old)(**{**old.kinds(), "link": {**old.link, off.name: off}})  # type: ignore[arg-type]
    kept = settled(new, old)
    assert kept.link[off.name] == off
    assert difference(old, kept, True) == []


def test_a_difference_says_what_changes(grid: Path) -> None:
    old = read(grid)
    text = (
        GRID.replace("slots = 4", "slots = 5").replace('"ops"', '"sam"').replace('["x86_64"]', '["a", "b"]')
    )
    (grid / GRID_FILE).write_text(text)
    changes = difference(settled(old, old), settled(read(grid), settled(old, old)), True)
    assert [(one.action, one.kind, one.name) for one in changes] == [
        ("change", "endpoint", "birch"),
        ("add", "account", "sam"),
        ("remove", "account", "ops"),
    ]
    before, after = (f"cores_max = 2, platforms = ({platforms})" for platforms in ("x86_64", "a, b"))
    assert changes[0].detail == f"offer: {before} -> {after}; slots: 4 -> 5"
    assert summary(changes) == "1 added, 1 changed, 1 removed"


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            'site = "T2_FR_Birch"\nslots',
            'site = "T2_FR_Brich"\nslots',
            r"endpoint\.1\.site: .*mean T2_FR_Birch",
        ),
        ('site = "T1_DE_Alder"\nst', 'site = "T1_XX_Y"\nst', r"se\.1\.site: there is no site 'T1_XX_Y'"),
        ('b = "Birch"', 'b = "Elm"', r"link\.1: there is no storage element 'Elm'"),
        ('b = "Birch"', 'b = "Alder"', r"link\.1: .*itself"),
        ('b = "Birch"', 'dst = "Birch"', r"link\.1: .*give a and b"),
        ("distance = 2", "distance = -2", r"link\.1\.distance = -2"),
        ("distance = 2", "distance = nan", r"link\.1\.distance"),
        ("distance = 2", "distanse = 2", r"link\.1\.distanse: unknown key; did you mean distance"),
        ("[[endpoint]]", "[[endpiont]]", r"endpiont: unknown key; did you mean endpoint"),
        ('name = "Birch"', 'name = "Alder"', r"se\.2: 'Alder' is there already"),
        ('name = "T2_FR_Birch"', 'name = "Birch"', r"site\.2\.name: 'Birch' is no site name"),
        ('name = "Birch"', f'name = "{"B" * 61}"', r"se\.2\.name"),
        ('name = "Birch"', 'name = "a/b"', r"se\.2\.name: 'a/b' is no name"),
        ("target = 70", "target = -1", r"share production has the target -1"),
        ("target = 70", "target = 0", r"the targets of production are all 0"),
        ("target = 70", "target = inf", r"share\.1\.target"),
        ('["operator"]', '["boss"]', r"account\.1\.roles"),
        ('roles = { "production"', 'roles = { "prodcution"', r"account\.1\.roles: .*mean production"),
        ('login = "*"', 'login = "a b"', r"account\.1\.login"),
        ('"payload"', '"pay"', r"retry\.1\.error_class"),
        ("max_retries = 9", "max_retries = -1", r"retry\.1\.max_retries"),
        ("slots = 4", "slots = -4", r"endpoint\.1\.slots"),
        ("slots = 4", 'slots = 4\nkind = "slurn"', r"endpoint\.1\.kind"),
        ("2.5", "1979-05-27", r"endpoint\.1\.config"),
        ("transit_bytes = 1000", "transit_bytes = -1", r"se\.1\.transit_bytes"),
        ('"${TIERFLOW_DIR}/alder"', '"${TIERFLOW_DIRR}/alder"', r"se\.1\.root: .*mean TIERFLOW_DIR"),
        ('"${TIERFLOW_DIR}/alder"', '"alder"', r"se\.1\.root .*no absolute path"),
        ('"tfc/plain.xml"', '"tfc/none.xml"', r"none\.xml: there is no such file"),
        ('"tfc/plain.xml"', '"../plain.xml"', r"se\.1\.storage .*leads out"),
        ('"tfc/plain.xml"', '"/etc/passwd"', r"se\.1\.storage .*leads out"),
        ('"tfc/plain.xml"', '"tfc"', r"tfc: there is no such file"),
        (
            'storage = "tfc/plain.xml"',
            'storage = "tfc/plain.xml"\nprotocol = "srm"',
            r"se\.1\.protocol: .*'srm'",
        ),
        ('storage = "tfc/plain.xml"', "", r"se\.1\.storage: is missing"),
        ("[[site]]", "[site]", r"grid\.toml"),
        ("[[site]]", "[[site", r"grid\.toml is no TOML"),
    ],
)
def test_bad_input_is_one_line(grid: Path, old: str, new: str, told: str) -> None:
    assert old in GRID
    (grid / GRID_FILE).write_text(GRID.replace(old, new, 1))
    line = refused(grid)
    assert re.search(told, line), line
    assert str(grid) in line


LOOP = '<lfn-to-pfn protocol="local" chain="b" path-match=".*" result="x"/>'
ENTITY = '<!DOCTYPE x [<!ENTITY a "b">]>'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ENTITY + PLAIN, "DTD or entity"),
        (
            f"<storage-mapping>{LOOP}{LOOP.replace('local', 'c').replace(chr(34) + 'b', chr(34) + 'local')}"
            f"{LOOP.replace('local', 'b').replace('chain=' + chr(34) + 'b', 'chain=' + chr(34) + 'c')}"
            "</storage-mapping>",
            "chain loop",
        ),
        ("<storage-mapping>" * 50_000, "not known here"),
        ("<storage-mapping>", "well-formed"),
        (PLAIN.replace("(.*)$", "((a+)+)+$"), "lfn-to-pfn rule 1"),
        (PLAIN.replace("result=", "resalt="), "rule 1"),
        (PLAIN.replace("TIERFLOW_DIR", "HOME"), "variable 'HOME'"),
        ("x" * 1_000_001, "larger"),
    ],
)
def test_a_hostile_storage_xml_is_one_line(grid: Path, text: str, told: str) -> None:
    (grid / "tfc/plain.xml").write_text(text)
    line = refused(grid)
    assert told in line
    assert "plain.xml" in line


def test_two_files_never_share_a_pfn(grid: Path) -> None:
    (grid / "tfc/plain.xml").write_text(PLAIN.replace("/store/(.*)$", "/store/.*/([^/]+)$"))
    line = refused(grid)
    assert re.search(r"se\.1\.storage: \S+/b/1\.root becomes .* as does \S+/a/1\.root at Alder", line), line


def test_two_storage_elements_never_share_a_directory(grid: Path) -> None:
    (grid / GRID_FILE).write_text(GRID.replace("birch.xml", "plain.xml"))
    assert re.search(r"se\.2\.storage: .* at Alder", refused(grid))


def test_a_pipe_is_not_waited_for(grid: Path) -> None:
    os.mkfifo(grid / "more.toml")
    assert "more.toml is no regular file" in refused(grid)


def test_a_login_has_one_account(grid: Path) -> None:
    (grid / "more.toml").write_text('[[account]]\nname = "sam"\nlogin = "*"\n')
    assert "more.toml: account.1.login: '*' has an account already" in refused(grid)


def test_a_directory_without_topology_is_refused(tmp_path: Path) -> None:
    assert "holds no topology" in refused(tmp_path / "none")
