"""Names and keys: what is one, what is none, and round trips."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore import ids
from gridcore.errors import UsageError
from gridcore.ids import BatchKey

NOW = datetime(2026, 11, 21, 9, 5, 7, tzinfo=UTC)
numbers = st.integers(0, 2**63 - 1)
labels = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,98}", fullmatch=True)


@given(st.from_regex(r"[0-9a-f]{8}", fullmatch=True), numbers, numbers)
def test_a_batch_key_reads_back(instance, job, attempt):
    key = BatchKey(instance, job, attempt)
    assert BatchKey.parse(str(key)) == key


def test_a_batch_key_shortens_the_instance_and_knows_strangers():
    assert str(BatchKey("0123456789abcdef", 17, 2)) == "tf.01234567.17.2"
    for text in (
        "",
        "tf.01234567.17",
        "tf.0123456.17.2",
        "xtf.01234567.17.2",
        "tf.01234567.17.2\n",
        "tf.x.1.2",
    ):
        assert BatchKey.parse(text) is None
    # Digits of other scripts would read back as another text.
    assert BatchKey.parse("tf.01234567.١٧.2") is None


@pytest.mark.parametrize("lfn", ["/store/a", "/store/mc/x/y_1-a2.root", "/store/" + "a" * 200])
def test_lfns(lfn):
    assert ids.check_lfn(lfn) == lfn


@pytest.mark.parametrize(
    "text", ["", "/store", "store/a", "/stores/a", "/store/" + "a" * 201, "/store" + "/aaaa" * 100]
)
@pytest.mark.parametrize("tail", ["", "x"])
def test_no_lfns(text, tail):
    with pytest.raises(UsageError) as caught:
        ids.check_lfn(text + tail)
    assert caught.value.hint


@pytest.mark.parametrize("part", ["", "..", "..b", "a..b", ".a", "-a", "a b", "a\n", "ä"])
def test_no_parts_of_lfns(part):
    for text in (f"/store/{part}", f"/store/a/{part}", f"/store/{part}/a"):
        with pytest.raises(UsageError):
            ids.check_lfn(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/store/a/../b", "'..'"),
        ("/store//a", "a part between slashes is empty"),
        ("/store/a/", "a part between slashes is empty"),
        ("/store/a\x07", "'\\x07'"),
        ("/store/a b", "' '"),
        ("/data/a", "does not begin with /store/"),
        ("/store/.a", "begins with neither a letter nor a digit"),
        ("/store/" + "a" * 10_000, "an LFN of 10007 characters is too long: at most 500, 200 a part"),
    ],
)
def test_what_is_wrong_with_an_lfn_is_told(text, says):
    with pytest.raises(UsageError) as caught:
        ids.check_lfn(text)
    assert says in caught.value.message
    assert len(caught.value.message) < 600


@given(st.text(alphabet="/store.ab-_ \n", max_size=30))
def test_an_lfn_never_climbs(text):
    try:
        lfn = ids.check_lfn("/store/" + text)
    except UsageError:
        return
    assert all(part and part[0].isalnum() for part in lfn.split("/")[1:])
    assert "/".join(ids.split_lfn(lfn)) == lfn


def test_datasets():
    assert ids.check_dataset("/auau7/Urqmd-v1/GEN-SIM")
    for text in (
        "",
        "/a/b",
        "/a/b/gen",
        "/a/b/C/D",
        "a/b/C",
        "/a/b/" + "C" * 21,
        "/a/-b/C",
        "/a/b/C\n",
        "/" + "a" * 100 + "/b/C",
    ):
        with pytest.raises(UsageError):
            ids.check_dataset(text)


@given(labels)
def test_labels(label):
    assert ids.check_label(label) == label
    for bad in ("." + label, label + "\n", label + "/", "x" * 100):
        with pytest.raises(UsageError, match="no user"):
            ids.check_label(bad, "user")


def test_sites():
    assert ids.tier_of(ids.check_site("T2_RU_Elm")) == 2
    for text in ("", "T4_RU_Elm", "T2_ru_Elm", "T2_RU_", "T2_RU_Elm_1", "T2_RU_Elm\n", "T2_RU_" + "x" * 31):
        with pytest.raises(UsageError):
            ids.check_site(text)


def test_task_and_job_names():
    task = ids.task_name(NOW, "ann", "gen-1")
    assert task == "261121_090507:ann_gen-1"
    assert ids.task_name(NOW, "ann", "gen", repeat=2) == "261121_090507:ann_gen-2"
    assert ids.job_name(task, 17) == f"{task}/17"
    assert ids.job_name(task, 17, 2) == f"{task}/17.2"


@given(labels, numbers, st.none() | numbers)
def test_a_job_name_reads_back(label, index, attempt):
    task = ids.task_name(NOW, "ann", label)
    assert ids.parse_job_name(ids.job_name(task, index, attempt)) == (task, index, attempt)


@pytest.mark.parametrize(
    "text", ["", "task", "task/", "task/x", "task/1.", "task/1.2.3", "/1", "task/1\n", "task/١"]
)
def test_no_job_names(text):
    with pytest.raises(UsageError):
        ids.parse_job_name(text)


@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(0, 10**6), st.integers(1, 50))
def test_output_lfns_are_unique_per_attempt(index, attempt, other_index, other_attempt):
    one = ids.output_lfn("/store/unmerged/a", "261121_090507:ann_gen", index, attempt, "out", "root")
    two = ids.output_lfn(
        "/store/unmerged/a", "261121_090507:ann_gen", other_index, other_attempt, "out", "root"
    )
    assert (one == two) == ((index, attempt) == (other_index, other_attempt))


def test_an_output_lfn():
    lfn = ids.output_lfn("/store/unmerged/a", "261121_090507:ann_gen", 2017, 3, "out", "root")
    assert lfn == "/store/unmerged/a/261121_090507_ann_gen/2/out_2017-a3.root"
    with pytest.raises(UsageError):
        ids.output_lfn("/store/unmerged/a", "t", 1, 1, "../out", "root")
