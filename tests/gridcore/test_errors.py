"""The error tree: exit codes, default messages, hints."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from gridcore import errors
from gridcore.errors import GridError


def tree(root: type[GridError] = GridError) -> Iterator[type[GridError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


CLASSES = [one for one in tree() if one.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", CLASSES)
def test_the_docstring_is_the_default_message(kind):
    assert kind().message == kind.__doc__
    assert str(kind("the disk is full")) == "the disk is full"
    assert kind("x", hint="free some space").hint == "free some space"
    assert kind("x").hint is None


@pytest.mark.parametrize("kind", CLASSES)
def test_the_tree_on_top_of_the_file_is_the_real_one(kind):
    lines = [line.split() for line in (errors.__doc__ or "").splitlines()]
    assert [kind.__name__, str(kind.exit_code)] in [words[:2] for words in lines]
    assert 400 <= kind.http_status < 600


def test_exit_codes_by_meaning():
    codes = {one.__name__: one.exit_code for one in CLASSES}
    assert codes["UsageError"] == 2
    assert codes["NotFound"] == 3
    assert codes["Denied"] == 4
    assert codes["Unavailable"] == codes["Busy"] == 5


def test_an_error_survives_another_process():
    again = pickle.loads(pickle.dumps(errors.Denied("no", hint="ask")))
    assert (type(again), again.message, again.hint) == (errors.Denied, "no", "ask")
