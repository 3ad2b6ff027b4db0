"""The dialects: the cases that tell PhEDEx, WMCore and CMSSW apart, and each against a plain transcription.

Of the numbered cases 13 (space tokens) stands in test_tfc.py and 20 (round trips) in test_tfc_lint.py.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.lint import lint
from catalogs.tfc.rules import Dialect, Kind, Rule, dialect_of
from gridcore.errors import NotFound, UsageError

DIRECT = Rule("p", "/+(.*)", "/castor/cms/$1")
ELEVEN = "/" + "(.)" * 11
LOOP = (Rule("p", "(.*)", "$1", chain="b"), Rule("b", "(.*)", "$1", chain="p"))
PNFS = (
    Rule("pnfs", "/+store/temp/user/(.*)", "/pnfs/disk/$1"),
    Rule("pnfs", "/+(.*)", "/pnfs/$1"),
    Rule("p", "(.*)", "srm://h?SFN=$1", chain="pnfs"),
)


@dataclass(frozen=True)
class Case:
    """Rules, a question to protocol p, and the answers: PhEDEx's, verified with Perl, WMCore's, CMSSW's."""

    says: str
    rules: tuple[Rule, ...]
    name: str
    answers: tuple[str | None, str | None, str | None]
    kind: Kind = "lfn-to-pfn"
    asked: dict[str, object] = field(default_factory=dict)


def same(answer: str | None) -> tuple[str | None, str | None, str | None]:
    return (answer, answer, answer)


CASES = [
    Case("1 slashes", (DIRECT,), "//store/a", same("/castor/cms/store/a")),
    Case(
        "2 chain",
        (Rule("direct", "/+(.*)", "/castor/$1"), Rule("p", "(.*)", "srm:$1", chain="direct")),
        "/store/a",
        same("srm:/castor/store/a"),
    ),
    Case("3 in front", (Rule("p", "store/(.*)", "/x/$1"),), "/store/a", ("//x/a", None, None)),
    Case(
        "4 behind",
        (Rule("p", "/store/(data)", "/x/$1"),),
        "/store/data/b",
        ("/x/data/b", "/x/data", None),
    ),
    Case(
        "5 two groups",
        (Rule("p", "/+store/user/(.)(.*)", "/eos/user/$1/$1$2"),),
        "/store/user/fred/d",
        same("/eos/user/f/fred/d"),
    ),
    Case(
        "6 empty group",
        (Rule("p", "/+store(/x)?/(.*)", "/p$1/$2"),),
        "/store/a",
        ("/p/a", "/pa/$2", "/p$1/a"),
    ),
    Case(
        "7 chain without a name",
        (
            Rule("direct", "/data/(.*)", "/d/$1"),
            Rule("p", "(.*)", "chained:$1", chain="direct"),
            Rule("p", "/(.*)", "plain:$1"),
        ),
        "/mc/a",
        ("plain:mc/a", None, None),
    ),
    Case(
        "8 chain to an LFN",
        (Rule("p", r".*\?SFN=(.*)", "$1", chain="direct"), Rule("direct", "/castor/(.*)", "/$1")),
        "srm://h?SFN=/castor/store/a",
        ("/store/a", "", "/store/a"),
        "pfn-to-lfn",
    ),
    Case("9 eleven groups", (Rule("p", ELEVEN, "$11-$2"),), "/abcdefghijk", ("k-b", "a1-b", "a1-b")),
    Case(
        "10 a pattern for the chained name",
        (Rule("direct", "/+(.*)", "/pnfs/$1"), Rule("p", "/pnfs/(.*)", "srm:$1", chain="direct")),
        "/store/a",
        ("srm:store/a", "srm:store/a", None),
    ),
    Case(
        "11 first match",
        (Rule("p", "/store/mc/(.*)", "mc:$1"), Rule("p", "/(.*)", "any:$1")),
        "/store/mc/a",
        same("mc:a"),
    ),
    Case(
        "12 custodial",
        (Rule("p", "/(.*)", "tape:$1", is_custodial="y"), Rule("p", "/(.*)", "disk:$1", is_custodial="n")),
        "/store/a",
        ("disk:store/a", "tape:store/a", "tape:store/a"),
    ),
    Case(
        "12 custodial copy",
        (Rule("p", "/(.*)", "tape:$1", is_custodial="y"), Rule("p", "/(.*)", "disk:$1", is_custodial="n")),
        "/store/a",
        same("tape:store/a"),
        asked={"custodial": True},
    ),
    Case(
        "14 destination",
        (Rule("p", "/(.*)", "t1:$1", destination_match="T1"), Rule("p", "/(.*)", "any:$1")),
        "/store/a",
        ("t1:store/a", "t1:store/a", "any:store/a"),
        asked={"destination": "X_T1_FR"},
    ),
    Case(
        "14 destination unknown",
        (Rule("p", "/(.*)", "t1:$1", destination_match="T1"), Rule("p", "/(.*)", "any:$1")),
        "/store/a",
        ("t1:store/a", "t1:store/a", "any:store/a"),
    ),
    Case("16 unknown protocol", (Rule("q", "/(.*)", "$1"),), "/store/a", same(None)),
    Case("17 redirected", PNFS, "/store/temp/user/a", same("srm://h?SFN=/pnfs/disk/a")),
    Case("17 not redirected", PNFS, "/store/mc/a", same("srm://h?SFN=/pnfs/store/mc/a")),
    Case("18 two slashes", (Rule("p", "/?(.*)", "root://h//$1"),), "/store/a", same("root://h//store/a")),
    Case(
        "19 quoted dollar",
        (Rule("p", "/(.*)", r"/p\$1/$1"),),
        "/a",
        ("/p$1/a", r"/p\a/a", r"/p\a/a"),
    ),
    Case("19 ampersand", (Rule("p", "/(.*)", "/?a=b&c=$1"),), "/a", same("/?a=b&c=a")),
    Case(
        "second match fails",
        (Rule("direct", "/store/(.*)", "x/$1"), Rule("p", "/store/(.*)", "srm:$1", chain="direct")),
        "/store/a",
        (None, None, "srm:$1"),
    ),
    Case(
        "the name in front of a chained match",
        (Rule("direct", "/(.*)", "/d/$1"), Rule("p", "/store/(.*)", "$1+$2", chain="direct")),
        "/store/a",
        ("/da+", "/d+a", "$1+$2"),
    ),
]


def ask(catalog: TrivialCatalog, kind: Kind, name: str, **asked: object) -> str | None:
    """The answer of protocol p; None for none."""
    try:
        if kind == "pfn-to-lfn":
            return catalog.lfn(name, "p", **asked)  # type: ignore[arg-type]
        return catalog.pfn(name, "p", **asked).pfn  # type: ignore[arg-type]
    except NotFound:
        return None


def made(dialect: Dialect, kind: Kind, rules: tuple[Rule, ...]) -> TrivialCatalog:
    both = {"lfn-to-pfn": ("lfn_to_pfn", rules), "pfn-to-lfn": ("pfn_to_lfn", rules)}
    key, value = both[kind]
    return TrivialCatalog("storage.xml", dialect=dialect, **{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_each_dialect_answers_as_its_own_code_does(case: Case, dialect: Dialect) -> None:
    expected = case.answers[list(Dialect).index(dialect)]
    found = ask(made(dialect, case.kind, case.rules), case.kind, case.name, **case.asked)
    assert (found or "") == (expected or "")


@pytest.mark.parametrize("dialect", Dialect)
def test_a_loop_is_refused_in_every_dialect(dialect: Dialect) -> None:
    with pytest.raises(UsageError, match="chain loop"):
        made(dialect, "lfn-to-pfn", LOOP).pfn("/store/a", "p")


def test_only_phedex_knows_space_tokens_and_lint_says_so() -> None:
    rule = Rule("p", "/(.*)", "/x/$1", is_custodial="n", space_token="DISK", destination_match="T1")
    for dialect, ignored in (("phedex", 0), ("wmcore", 3), ("cmssw", 2)):
        catalog = TrivialCatalog("storage.xml", (rule,), dialect=Dialect(dialect))
        told = [one.what for one in lint(catalog, []) if "means nothing" in one.what]
        assert len(told) == ignored
        asked = {"destination": "T1"}
        assert catalog.pfn("/a", "p", **asked).space_token == ("DISK" if dialect == "phedex" else None)


def test_an_unknown_dialect_is_named_with_the_known_ones() -> None:
    assert dialect_of(None, "x") is Dialect.PHEDEX
    with pytest.raises(UsageError) as caught:
        dialect_of("dbs", "grid.toml")
    assert caught.value.hint == "dialects: phedex, wmcore, cmssw"


# Names that put signs into a result are put in text by text; that must not grow without end.
@pytest.mark.parametrize("dialect", [Dialect.WMCORE, Dialect.CMSSW])
def test_a_name_that_multiplies_itself_is_refused(dialect: Dialect) -> None:
    rule = Rule("p", "/((((.*))))", "$1" * 200)
    with pytest.raises(UsageError, match=r"makes \d{4,6} characters"):
        made(dialect, "lfn-to-pfn", (rule,)).pfn("/" + "$2$3$4" * 80, "p")


# --- against a plain transcription of each -----------------------------------------------------------


def perl(rule: Rule, name: str) -> str | None:
    match = re.search(rule.path_match, name)
    if match is None:
        return None
    middle = re.sub(r"\$(\d)", lambda sign: group(match, int(sign[1])), rule.result)
    return name[: match.start()] + middle + name[match.end() :]


def group(match: re.Match[str], number: int) -> str:
    return (match[number] or "") if number <= match.re.groups else ""


def phedex(rules: tuple[Rule, ...], kind: Kind, protocol: str, name: str) -> str | None:
    for rule in rules:
        if rule.protocol != protocol:
            continue
        if kind == "pfn-to-lfn":
            text = perl(rule, name)
            if text is not None:
                return phedex(rules, kind, rule.chain, text) if rule.chain else text
            continue
        given = phedex(rules, kind, rule.chain, name) if rule.chain else name
        text = None if given is None else perl(rule, given)
        if text is not None:
            return text
    return None


def wmcore(rules: tuple[Rule, ...], kind: Kind, protocol: str, name: str | None) -> str | None:
    for rule in rules:
        if rule.protocol != protocol:
            continue
        if name is None:
            raise TypeError
        if not rule.chain and not re.match(rule.path_match, name):
            continue
        before = name
        if rule.chain:
            name = wmcore(rules, kind, rule.chain, name)
            if not name:
                continue
        parts = re.split(rule.path_match, name, maxsplit=1)
        if len(parts) == 1:
            name = before
            continue
        result = rule.result
        for number, part in enumerate([part for part in parts if part], 1):
            result = result.replace(f"${number}", part)
        return result
    return None


def cmssw(rules: tuple[Rule, ...], kind: Kind, protocol: str, name: str) -> str | None:
    for rule in rules:
        if rule.protocol != protocol or not re.fullmatch(rule.path_match, name):
            continue
        if rule.chain and kind == "lfn-to-pfn":
            name = cmssw(rules, kind, rule.chain, name) or ""
            if not name:
                return None
        match = re.fullmatch(rule.path_match, name)
        name = rule.result
        for number, part in enumerate(match.groups() if match else (), 1):
            name = name.replace(f"${number}", part) if part else name
        return (cmssw(rules, kind, rule.chain, name) or "") if rule.chain and kind == "pfn-to-lfn" else name
    return None


PLAIN = {Dialect.PHEDEX: phedex, Dialect.WMCORE: wmcore, Dialect.CMSSW: cmssw}
patterns = st.sampled_from(
    [
        "/+(.*)", "(.*)", "^/a/(.*)$", "/(.*)", "/a", "a/(.*)", "/(.)(.*)", "/+a(/x)?/(.*)", "^(.*)b",
        "/x/(.+)$", "(?:/a)+/(.*)", "/+?(.*)", "/(.*?)", "//(.*)", "/+/(.*)", "(/.*)", "/a/([^/]*)",
        "(a)|/(b)", "/a/(.*)/b",
    ]
)  # fmt: skip
results = st.sampled_from(["/x/$1", "$1", "/a/$2", "h:$1$1", "/", "/x/$2/$1", "$1/b", "a/$1"])
#: Chains lead from p to q to r, so that none is a loop.
rules = st.lists(
    st.tuples(st.sampled_from(["p", "p", "q", "r"]), patterns, results, st.booleans()).map(
        lambda it: Rule(it[0], it[1], it[2], chain={"p": "q", "q": "r"}.get(it[0]) if it[3] else None)
    ),
    max_size=7,
).map(tuple)
pieces = st.sampled_from(["/", "a", "b", "x", "/a", "/a/", "c"])
some_names = st.lists(pieces, min_size=1, max_size=6).map("".join)


@given(st.sampled_from(Dialect), st.sampled_from(["lfn-to-pfn", "pfn-to-lfn"]), rules, st.lists(some_names))
def test_compiled_rules_answer_as_a_plain_transcription_does(
    dialect: Dialect, kind: Kind, listed: tuple[Rule, ...], asked: list[str]
) -> None:
    catalog = made(dialect, kind, listed)
    for name in asked:
        try:
            expected = PLAIN[dialect](listed, kind, "p", name)
        except TypeError:
            expected = None
        with contextlib.suppress(UsageError):  # a name of no characters, or one that leads upwards
            assert (ask(catalog, kind, name) or "") == (expected or "")


@given(st.sampled_from(Dialect), rules, st.lists(some_names, max_size=8))
def test_many_names_are_translated_as_one_by_one(
    dialect: Dialect, listed: tuple[Rule, ...], asked: list[str]
) -> None:
    catalog = made(dialect, "lfn-to-pfn", listed)
    resolve = catalog.resolver("p")
    try:
        expected = [str(catalog.pfn(name, "p").pfn) for name in asked]
    except (NotFound, UsageError) as error:
        for act in (lambda: catalog.pfns(asked, "p"), lambda: [resolve(name) for name in asked]):
            with pytest.raises(type(error), match=re.escape(error.message)):
                act()
        return
    assert catalog.pfns(asked, "p") == [resolve(name) for name in asked] == expected


@pytest.mark.parametrize("bad", ["", "/a\x00", "/\u00e9", "/../a", "/%2e%2e/a", "/" + "a" * 500, "/a\nb"])
def test_one_bad_name_among_many_is_refused(bad: str) -> None:
    catalog = TrivialCatalog("storage.xml", (DIRECT,))
    with pytest.raises(UsageError):
        catalog.pfns(["/store/a", bad, "/store/b"], "p")
    with pytest.raises(UsageError):
        catalog.resolver("p")(bad)
    assert catalog.pfns([], "p") == []


def test_names_with_harmless_dots_and_percents_pass() -> None:
    catalog = TrivialCatalog("storage.xml", (DIRECT,))
    for lfn in ("/store/a..b", "/store/50%", "/store/..."):
        assert catalog.pfns([lfn], "p") == [catalog.resolver("p")(lfn)] == ["/castor/cms" + lfn]


def test_ways_of_many_destinations_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalogs.tfc.catalog.WAYS_MAX", 3)
    catalog = TrivialCatalog("storage.xml", (Rule("p", "/(.*)", "$1", destination_match="T[0-9]$"),))
    for number in range(10):
        assert catalog.pfn("/a", "p", destination=f"T{number}").pfn == "a"
    assert len(catalog._ways) <= 3
