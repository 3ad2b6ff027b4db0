"""The Trivial File Catalog: PhEDEx's answers, hostile patterns and names, round trips."""

from __future__ import annotations

import contextlib
import json
import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.lint import SAMPLE_LFNS, lint
from catalogs.tfc.rules import Rule
from catalogs.tfc.storage_xml import parse_storage_xml, to_xml
from gridcore.errors import NotFound, UsageError

DIRECT = Rule("direct", "/+(.*)", "/castor/cms/$1")
SRM = "srm://srm.alder.org/srm/managerv1?SFN="


def forward(*rules: Rule) -> TrivialCatalog:
    return TrivialCatalog("storage.xml", lfn_to_pfn=rules)


def pattern(path_match: str, result: str = "/x/$1") -> TrivialCatalog:
    return forward(Rule("direct", path_match, result))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        act()
    message = caught.value.message
    assert caught.value.hint
    assert "\n" not in message
    assert message.startswith("storage.xml: ")
    return message


# Expected values are those of PhEDEx's own substitution, run in Perl.
@pytest.mark.parametrize(
    ("path_match", "result", "lfn", "pfn"),
    [
        ("/+(.*)", "/castor/cms/$1", "//store/a", "/castor/cms/store/a"),
        ("store/(.*)", "/x/$1", "/store/a", "//x/a"),
        ("/store/(data)", "/x/$1", "/store/data/b", "/x/data/b"),
        ("/+store/user/(.)(.*)", "/eos/user/$1/$1$2", "/store/user/fred/d", "/eos/user/f/fred/d"),
        ("/+store(/x)?/(.*)", "/p$1/$2", "/store/a", "/p/a"),
        ("/" + "(.)" * 11, "$11-$1", "/abcdefghijk", "k-a"),
        ("/" + "(.)" * 11, "${1}1", "/abcdefghijk", "a1"),
        ("/(.*)", r"/p\$1/&/?SFN=\?$1", "/a", "/p$1/&/?SFN=?a"),
        ("/(.*)", r"/\1/a\.b@c!d", "/a", "/a/a.b@c!d"),
        ("/(.*)", "/x/$1$2", "/a", "/x/a"),
        ("/a", "", "/a/b/a", "/b/a"),
        ("^/store/(.*)$", "root://h//store/$1", "/store/a", "root://h//store/a"),
    ],
)
def test_substitutes_like_phedex(path_match: str, result: str, lfn: str, pfn: str) -> None:
    assert pattern(path_match, result).pfn(lfn, "direct").pfn == pfn


def test_chain_without_a_name_falls_to_the_next_rule() -> None:
    catalog = forward(
        Rule("direct", "/data/(.*)", "/d/$1"),
        Rule("srm", "(.*)", "chained:$1", chain="direct"),
        Rule("srm", "/(.*)", "plain:$1"),
    )
    assert catalog.pfn("/data/a", "srm").pfn == "chained:/d/a"
    assert catalog.pfn("/mc/a", "srm").pfn == "plain:mc/a"


def test_path_match_sees_the_chained_name_only() -> None:
    catalog = forward(
        Rule("direct", "/+store/(.*)", "/pnfs/$1"), Rule("srm", "/pnfs/(.*)", "srm:$1", chain="direct")
    )
    assert catalog.pfn("/store/a", "srm").pfn == "srm:a"


def test_temporary_files_are_redirected_behind_a_chain() -> None:
    catalog = forward(
        Rule("pnfs", "/+store/temp/user/(.*)", "/pnfs/disk/user/$1"),
        Rule("pnfs", "/+(.*)", "/pnfs/tape/$1"),
        Rule("srmv2", "(.*)", "srm://h:8443/srm/managerv2?SFN=$1", chain="pnfs"),
    )
    assert catalog.pfn("/store/temp/user/a", "srmv2").pfn.endswith("?SFN=/pnfs/disk/user/a")
    assert catalog.pfn("/store/data/a", "srmv2").pfn.endswith("?SFN=/pnfs/tape/store/data/a")


def test_backward_chain_without_an_answer_ends_the_search() -> None:
    rules = (Rule("srm", "SFN=(.*)", "$1", chain="direct"), Rule("srm", "(.*)", "/never"))
    catalog = TrivialCatalog("storage.xml", pfn_to_lfn=rules)
    with pytest.raises(NotFound, match="no rule for protocol 'direct'"):
        catalog.lfn("SFN=/a", "srm")


def test_custodial_picks_rule_and_token() -> None:
    catalog = forward(
        Rule("srm", "/(.*)", "tape:$1", is_custodial="y", space_token="TAPE"),
        Rule("srm", "/(.*)", "disk:$1", is_custodial="n", space_token="DISK"),
    )
    tape, disk = catalog.pfn("/a", "srm", custodial=True), catalog.pfn("/a", "srm")
    assert (tape.pfn, tape.space_token) == ("tape:a", "TAPE")
    assert (disk.pfn, disk.space_token) == ("disk:a", "DISK")


def test_outermost_space_token_wins_and_else_the_inner_stays() -> None:
    inner = Rule("direct", "/(.*)", "/d/$1", space_token="INNER")
    outer = Rule("own", "(.*)", "srm:$1", chain="direct", space_token="OUTER")
    catalog = forward(inner, outer, Rule("none", "(.*)", "srm:$1", chain="direct"))
    assert catalog.pfn("/a", "own").space_token == "OUTER"
    assert catalog.pfn("/a", "none").space_token == "INNER"


def test_a_rule_that_was_passed_over_leaves_no_token() -> None:
    inner = Rule("direct", "/(.*)", "/d/$1", space_token="INNER")
    catalog = forward(inner, Rule("srm", "^x", "", chain="direct"), Rule("srm", "/(.*)", "plain:$1"))
    assert catalog.pfn("/a", "srm").space_token is None


def test_destination_is_searched_and_unknown_destination_takes_the_first() -> None:
    catalog = forward(Rule("srm", "/(.*)", "t1:$1", destination_match="T1"), Rule("srm", "/(.*)", "any:$1"))
    assert catalog.pfn("/a", "srm", destination="X_T1_FR").pfn == "t1:a"
    assert catalog.pfn("/a", "srm", destination="T2_RU_Elm").pfn == "any:a"
    assert catalog.pfn("/a", "srm").pfn == "t1:a"


def test_no_answer_names_the_reason_of_each_rule() -> None:
    catalog = forward(
        DIRECT,
        Rule("srm", "^/mc/", "", destination_match="T1"),
        Rule("srm", "/(.*)", "$1", is_custodial="y"),
        Rule("srm", "/(.*)", "$1", chain="gone"),
        Rule("srm", "^/mc/", ""),
    )
    with pytest.raises(NotFound) as caught:
        catalog.pfn("/store/a", "srm", destination="T2_RU_Elm")
    for reason in (
        "rule 2 is for destinations",
        "rule 3 is for is-custodial=y",
        "'gone'",
        "rule 5 path-match",
    ):
        assert reason in caught.value.message
    with pytest.raises(NotFound, match="no rule for protocol 'davs', only for direct, srm"):
        catalog.pfn("/store/a", "davs")


def test_long_chains_are_refused_and_branching_ones_answer_at_once() -> None:
    rules = [Rule(f"p{i}", "^never", "", chain=f"p{i + 1}") for i in range(15) for _ in range(8)]
    with pytest.raises(NotFound):
        forward(*rules, Rule("p15", "/", "/")).pfn("/a", "p0")
    long = [Rule(f"p{i}", "(.*)", "$1", chain=f"p{i + 1}") for i in range(900)]
    assert "chain of 901 protocols" in refusal(lambda: forward(*long).pfn("/a", "p0"))


@pytest.mark.parametrize(
    "path_match",
    [
        "(a+)+$", "(a|aa)+x", "(a*)*x", "(a?){50}b", "(?:a|b+)*x", "(?:){99999999}", "a.*.*.*x",
        "x(?:(?=.*.*.*b))*", ".*.*[^x]*.*x", "a?" * 60 + "a" * 60, "(?=(a+)+b)a", "(" * 200 + ")" * 200,
        "(a)(?(1)b|c)", "a{99999999999999}",
    ],
)  # fmt: skip
def test_pattern_that_can_run_away_is_refused(path_match: str) -> None:
    assert "lfn-to-pfn rule 1" in refusal(lambda: pattern(path_match).pfn("/a", "direct"))


@pytest.mark.parametrize(
    ("path_match", "lfn"),
    [
        (".*/LoadTest07_Alder_(.*)_.*_.*", "/LoadTest07_Alder_" * 27),
        ("^/+store/(.*)/x/(.*)/y", "/store/" + "/x/" * 160),
        ("/+store/(.*[ab])[.]root", "/store/" + "a" * 490),
        ("(.*/+store/.*user/test/SAM-srm.*)", "/store/user/" * 40),
        ("/+(.*)$", "a" * 500),
        (".*(.*)b", "a" * 500),
    ],
)
def test_pattern_as_sites_write_them_is_taken_and_quick(path_match: str, lfn: str) -> None:
    catalog = TrivialCatalog.from_dict(pattern(path_match).to_dict(), source="storage.xml")
    with contextlib.suppress(NotFound):
        catalog.pfn(lfn, "direct")


@pytest.mark.parametrize(
    "lfn",
    [
        "/store/../../etc/passwd",
        "/store/..",
        "/store/%2e%2E/a",
        "/a\x00b",
        "/a\nb",
        "/é",
        "",
        "/" + "a" * 500,
    ],
)
def test_name_that_is_no_plain_path_is_refused(lfn: str) -> None:
    refusal(lambda: pattern("/(.*)").pfn(lfn, "direct"))


def test_pfn_that_leads_upwards_or_grows_is_refused() -> None:
    assert "'..'" in refusal(lambda: pattern("/(.)(.*)", "/a/$1./$2").pfn("/./etc", "direct"))
    assert pattern("/(.*)").pfn("/a..b/...", "direct").pfn == "/x/a..b/..."
    growing = pattern("(.*)", "$1" * 100)
    assert "rule 1 (protocol 'direct'): makes 40000 characters" in refusal(
        lambda: growing.pfn("/" * 400, "direct")
    )
    assert "PFN of 0 characters" in refusal(lambda: pattern(".*", "").pfn("/a", "direct"))


@pytest.mark.parametrize(
    "values",
    [
        {"lfn-to-pfn": "x"},
        {"lfn-to-pfn": [1]},
        {"lfn-to-pfn": [{"protocol": 1, "path-match": "x", "result": "y"}]},
        {"lfn-to-pfn": [{"protocol": "a"}]},
        {"rules": []},
    ],
)
def test_malformed_values_are_refused(values: dict[str, object]) -> None:
    refusal(lambda: TrivialCatalog.from_dict(values, source="storage.xml"))


component = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12).filter(
    lambda text: text[0].isalnum()
)
lfns = st.lists(component, min_size=1, max_size=6).map(lambda parts: "/store/" + "/".join(parts))


@given(
    prefix=st.lists(component, max_size=4).map(lambda parts: "".join(f"/{part}" for part in parts)),
    door=st.sampled_from(["", "root://h:1094/", SRM, "davs://h+x:443"]),
    lfn=lfns,
)
def test_prefix_catalogues_round_trip(prefix: str, door: str, lfn: str) -> None:
    def plain(text: str) -> str:
        return "".join(char if char.isalnum() else f"\\{char}" for char in text)

    catalog = TrivialCatalog(
        "storage.xml",
        (
            Rule("direct", "^/+store/(.*)", f"{prefix}/store/$1"),
            Rule("door", "(.*)", plain(door) + "$1", chain="direct"),
        ),
        (
            Rule("direct", f"^{plain(prefix)}/store/(.*)", "/store/$1"),
            Rule("door", f"^{plain(door)}(.*)", "$1", chain="direct"),
        ),
    )
    for protocol in catalog.protocols():
        pfn = catalog.pfn(lfn, protocol).pfn
        assert pfn == (door if protocol == "door" else "") + prefix + lfn
        assert catalog.lfn(pfn, protocol) == lfn
    assert lint(catalog, [lfn, *SAMPLE_LFNS]) == []


@given(
    st.lists(st.sampled_from(["/a", "/b", "/a/b", "/c", ".*"]), min_size=1, max_size=8),
    st.sampled_from("abc"),
)
def test_the_first_match_wins(patterns: list[str], letter: str) -> None:
    rules = [Rule("p", text, str(number)) for number, text in enumerate(patterns)]
    expected = next((number for number, text in enumerate(patterns) if text in (f"/{letter}", ".*")), None)
    if expected is None:
        with pytest.raises(NotFound):
            forward(*rules).pfn(f"/{letter}", "p")
    else:
        assert forward(*rules).pfn(f"/{letter}", "p").pfn == str(expected)


names = st.sampled_from(["a", "b", "c", "d"])
some_text = st.text(string.printable[:95], max_size=12)
any_rule = st.builds(
    Rule,
    names,
    st.one_of(some_text, st.sampled_from(["(.*)", "/+(.*)", "/(a|b)?(.*)"])),
    st.one_of(some_text, st.sampled_from(["$1", "/x/$1$2"])),
    chain=st.none() | names,
    destination_match=st.none() | some_text.filter(bool),
    is_custodial=st.sampled_from([None, "y", "n"]),
    space_token=st.none() | names,
)


@pytest.mark.filterwarnings("ignore:Possible (nested set|set):FutureWarning")
@given(st.lists(any_rule, max_size=6), st.lists(any_rule, max_size=6), st.booleans())
def test_any_catalogue_is_refused_or_answers_without_recursion(
    to_pfn: list[Rule], to_lfn: list[Rule], custodial: bool
) -> None:
    catalog = TrivialCatalog("storage.xml", tuple(to_pfn), tuple(to_lfn))
    errors = [finding for finding in lint(catalog) if finding.severity == "error"]
    if errors:
        text = refusal(lambda: TrivialCatalog.from_dict(catalog.to_dict(), source="storage.xml"))
        assert text.endswith(str(errors[0]))
        return
    again = TrivialCatalog.from_dict(json.loads(json.dumps(catalog.to_dict())), source="storage.xml")
    assert again == catalog == parse_storage_xml(to_xml(catalog), source="storage.xml")
    for protocol in "abcd":
        for ask in (catalog.pfn, catalog.lfn):
            with contextlib.suppress(UsageError, NotFound):
                ask("/store/a", protocol, custodial=custodial)
