"""The Trivial File Catalog: PhEDEx's answers, hostile input, lint and round trips."""

from __future__ import annotations

import contextlib
import json
import resource
import string
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.tfc import SAMPLE_LFNS, Rule, TrivialCatalog, lint, parse_storage_xml
from gridcore.errors import NotFound, UsageError

DIRECT = Rule("direct", "/+(.*)", "/castor/cms/$1")
SRM = "srm://srm.alder.org/srm/managerv1?SFN="

STORAGE_XML = rf"""<?xml version="1.0"?>
<!-- one SRM in front of one file system -->
<storage-mapping>
  <lfn-to-pfn protocol="direct" path-match="/+(.*)" result="/castor/cms/$1"/>
  <lfn-to-pfn protocol="srm" chain="direct" path-match="(.*)" result="{SRM}$1"/>
  <pfn-to-lfn protocol="direct" path-match="/+castor/cms/(.*)" result="/$1"/>
  <pfn-to-lfn protocol="srm" chain="direct" path-match=".*\?SFN=(.*)" result="$1"/>
</storage-mapping>
"""


def forward(*rules: Rule) -> TrivialCatalog:
    return TrivialCatalog("storage.xml", lfn_to_pfn=rules)


def pattern(path_match: str, result: str = "/x/$1") -> TrivialCatalog:
    return forward(Rule("direct", path_match, result))


def wrap(body: str) -> str:
    return f"<storage-mapping>{body}</storage-mapping>"


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        act()
    message = caught.value.message
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


def test_reads_chains_in_both_directions() -> None:
    catalog = parse_storage_xml(STORAGE_XML, source="storage.xml")
    pfn = catalog.pfn("/store/a", "srm").pfn
    assert pfn == f"{SRM}/castor/cms/store/a"
    assert catalog.lfn(pfn, "srm") == "/store/a"
    assert catalog.protocols() == ["direct", "srm"]


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


@pytest.mark.parametrize("kind", ["lfn-to-pfn", "pfn-to-lfn"])
@pytest.mark.parametrize("length", [1, 2, 500])
def test_chain_loop_is_refused_when_loading(kind: str, length: int) -> None:
    rules = "".join(
        f'<{kind} protocol="p{i}" chain="p{(i + 1) % length}" path-match="(.*)" result="$1"/>'
        for i in range(length)
    )
    message = refusal(lambda: parse_storage_xml(wrap(rules), source="storage.xml"))
    assert f"{kind} rule" in message
    assert "chain loop p" in message


def test_long_chains_are_refused_and_branching_ones_answer_at_once() -> None:
    rules = [Rule(f"p{i}", "^never", "", chain=f"p{i + 1}") for i in range(15) for _ in range(8)]
    began = time.process_time()
    with pytest.raises(NotFound):
        forward(*rules, Rule("p15", "/", "/")).pfn("/a", "p0")
    assert time.process_time() - began < 0.5
    long = [Rule(f"p{i}", "(.*)", "$1", chain=f"p{i + 1}") for i in range(900)]
    assert "chain of 901 protocols" in refusal(lambda: forward(*long).pfn("/a", "p0"))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            '<lfn-to-pfn protocol="srm" path-match="(" result="x"/>',
            "lfn-to-pfn rule 1 (protocol 'srm'): path-match",
        ),
        ('<lfn-to-pfn protocol="srm" path-match="" result="x"/>', "path-match is empty"),
        ('<lfn-to-pfn protocol="srm" path-match="x"/>', "no result; add"),
        ('<lfn-to-pfn path-match="x" result="y"/>', "no protocol; add"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="$"/>', "stray '$'"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="$100"/>', "stray '$'"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="$0"/>', "stray '$'"),
        (r'<lfn-to-pfn protocol="srm" path-match="x" result="\n"/>', "stray"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="/a/../b"/>', "'..'"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="&#233;"/>', "printable ASCII"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="y" is-custodial="Y"/>', "write y or n"),
        (
            '<lfn-to-pfn protocol="srm" path-match="x" result="y" destination-match="["/>',
            "destination-match '['",
        ),
        ('<lfn-to-pfn protocol="srm" path-match="[[:alpha:]]" result="y"/>', "POSIX"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="y" cain="z"/>', "unknown attribute 'cain'"),
        ('<lfn-to-pnf protocol="srm" path-match="x" result="y"/>', "use lfn-to-pfn or pfn-to-lfn"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="y"><a/></lfn-to-pfn>', "<a> is not known here"),
        (f'<lfn-to-pfn protocol="srm" path-match="{"a" * 501}" result="y"/>', "path-match of 501 characters"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="y"/>' * 1001, "1001 rules; at most 1000"),
        ("<lfn-to-pfn", "line 1: no well-formed XML"),
    ],
)
def test_faulty_file_is_refused_with_file_key_and_cure(body: str, told: str) -> None:
    assert told in refusal(lambda: parse_storage_xml(wrap(body), source="storage.xml"))


@pytest.mark.parametrize(
    "text",
    [
        "<a>" * 200_000,
        "<storage-mapping>" * 55_000,
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><storage-mapping>&b;</storage-mapping>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd"><storage-mapping/>',
        wrap('<lfn-to-pfn protocol="p" path-match="(.*)" result="x"/>' * 17_000),
        wrap(f"<lfn-to-pfn {' '.join(f'a{i}=' + chr(34) * 2 for i in range(90_000))}/>"),
        "<!DOCTYPE storage-mapping><storage-mapping/>",
        wrap(" " * 1_000_000),
        "",
        "\ud800",
        b"\xff\xfe\x00",
        b'<?xml version="1.0" encoding="rot13"?><storage-mapping/>',
        b'<?xml version="1.0" encoding="utf-7"?><storage-mapping/>',
        b'<?xml version="1.0" encoding="nonsense"?><storage-mapping/>',
        "<catalog/>",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_hostile_file_is_refused_quickly(text: str | bytes) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refusal(lambda: parse_storage_xml(text, source="storage.xml"))
    assert time.process_time() - began < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


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
    began = time.process_time()
    with contextlib.suppress(NotFound):
        catalog.pfn(lfn, "direct")
    assert time.process_time() - began < 0.5


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


def test_a_phedex_answer_and_blank_attributes_are_read() -> None:
    rule = '<lfn-to-pfn protocol="p" path-match="/(.*)" result="$1" chain="" space-token="" is-custodial=""/>'
    catalog = parse_storage_xml(f"<phedex>{wrap(rule)}</phedex>".encode(), source="storage.xml")
    assert catalog.rules("lfn-to-pfn") == (Rule("p", "/(.*)", "$1"),)


def test_lint_lists_every_fault_of_a_file_read_leniently() -> None:
    text = wrap(
        '<lfn-to-pfn protocol="a" path-match="(" result=""/>'
        '<lfn-to-pfn protocol="a" path-match="x" result="$"/>'
        '<lfn-to-pfn protocol="a" chain="b" path-match="x" result=""/>'
        '<lfn-to-pfn protocol="b" chain="a" path-match="x" result=""/>'
    )
    findings = lint(parse_storage_xml(text, source="storage.xml", strict=False))
    assert {finding.severity for finding in findings} == {"error"}
    assert [finding.where[:17] for finding in findings[:2]] == ["lfn-to-pfn rule 1", "lfn-to-pfn rule 2"]
    assert "chain loop a -> b -> a" in findings[2].what


def test_lint_is_content_with_a_sound_catalogue() -> None:
    assert lint(parse_storage_xml(STORAGE_XML, source="storage.xml")) == []


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ((Rule("p", "/(.*)", "/x/$1$2"),), "rule 1 (protocol 'p'): result uses $2, path-match has 1 groups"),
        ((Rule("p", "/(.*)", "/x/$1", chain="q"),), "chains to 'q', which has no lfn-to-pfn rule"),
        ((DIRECT,), "no pfn-to-lfn rule"),
        (
            (Rule("p", "/+store/(.*)", "$1"), Rule("p", "/+store/user/(.*)", "$1")),
            "rule 2 (protocol 'p'): never reached after rule 1",
        ),
        (
            (Rule("p", "(.*)", "$1"), Rule("p", "/x", "$1", chain="p2"), Rule("p2", "/", "")),
            "rule 2 (protocol 'p'): never",
        ),
    ],
)
def test_lint_doubts(rules: tuple[Rule, ...], told: str) -> None:
    assert told in "\n".join(map(str, lint(forward(*rules))))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Rule("p", "/+store/(.*)", "$1", destination_match="T1"), Rule("p", "/+store/user/(.*)", "$1")),
        (Rule("p", "/+store/(.*)", "$1", is_custodial="y"), Rule("p", "/+store/user/(.*)", "$1")),
        (Rule("p", "/+store/(.*)", "$1"), Rule("p", "/+store/user/(.*)", "$1", chain="p2")),
        (Rule("p", "/store(.*)", "$1"), Rule("p", "/store?/(.*)", "$1")),
        (Rule("p", "/store(.*)", "$1"), Rule("p", "/store/a|/(.*)", "$1")),
        (Rule("p", "/store/user/(.*)", "$1"), Rule("p", "/store/(.*)", "$1")),
        (Rule("p", "/store/(.*)", "$1"), Rule("q", "/store/(.*)", "$1")),
    ],
)
def test_lint_calls_no_reachable_rule_unreachable(first: Rule, second: Rule) -> None:
    assert "never reached" not in "\n".join(map(str, lint(forward(first, second))))


def test_lint_finds_a_failing_round_trip() -> None:
    catalog = TrivialCatalog("storage.xml", (DIRECT,), (Rule("direct", "/castor/(.*)", "/$1"),))
    findings = lint(catalog, ["/store/a"])
    assert [finding.what for finding in findings] == [
        "/store/a becomes /castor/cms/store/a becomes /cms/store/a"
    ]


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
    assert again == catalog == parse_storage_xml(catalog.to_xml(), source="storage.xml")
    for protocol in "abcd":
        for ask in (catalog.pfn, catalog.lfn):
            with contextlib.suppress(UsageError, NotFound):
                ask("/store/a", protocol, custodial=custodial)
