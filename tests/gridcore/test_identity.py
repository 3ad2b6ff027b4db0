"""Who may do what: accounts, the policy table, hints of refusals, LFN areas."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore import identity
from gridcore.errors import Denied, UsageError
from gridcore.identity import (
    ANYBODY,
    EVERYWHERE,
    POLICY,
    Account,
    Action,
    Principal,
    Role,
    Subject,
    local_principal,
    may,
    may_write,
    require,
    writable_areas,
)

ELM = "T2_RU_Elm"


def somebody(**roles: Role) -> Principal:
    return Principal("ann", frozenset({"star"}), {scope: frozenset({role}) for scope, role in roles.items()})


OPERATOR = Principal("ops", roles={EVERYWHERE: frozenset({Role.OPERATOR})})


def test_a_login_is_mapped_to_its_account():
    ann, bob = Principal("ann"), Principal("bob")
    accounts = [Account("anna", ann), Account("robert", bob)]
    assert local_principal("anna", accounts) is ann
    with pytest.raises(Denied, match="'eve' has no account"):
        local_principal("eve", accounts)
    assert local_principal("eve", [*accounts, Account(ANYBODY, bob)]) is bob
    assert local_principal("anna", [*accounts, Account(ANYBODY, bob)]) is ann


def test_the_login_comes_from_the_kernel_not_the_environment(monkeypatch):
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert identity.unix_login() != "somebody-else"
    monkeypatch.setattr(os, "geteuid", lambda: 987_654)
    assert identity.unix_login() == "uid987654"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden"])
def test_names_that_are_no_lfn_part_are_refused(name):
    with pytest.raises(UsageError):
        Principal(name)
    with pytest.raises(UsageError):
        Principal("ann", frozenset({name}))


def test_the_policy_is_complete_and_an_operator_may_all():
    assert set(POLICY) == set(Action)
    assert all(may(OPERATOR, action) for action in Action)


def test_without_roles_one_may_look_and_control_ones_own():
    ann = Principal("ann")
    allowed = {action for action in Action if may(ann, action, Subject(owner="ann", group="star", site=ELM))}
    own = {Action.TASK_CONTROL, Action.SUBSCRIPTION_DECIDE, Action.DELETION_UNDO}
    assert allowed == {Action.VIEW, *own}
    assert {action for action in Action if may(ann, action, Subject(owner="bob"))} == {Action.VIEW}
    assert not may(ann, Action.TASK_CONTROL, Subject())


def test_a_role_counts_in_its_group_only():
    ann = somebody(star=Role.PRODUCTION)
    assert may(ann, Action.REQUEST_DECIDE, Subject(group="star"))
    assert not may(ann, Action.REQUEST_DECIDE, Subject(group="phenix"))
    assert not may(ann, Action.REQUEST_DECIDE)


def test_a_site_admin_counts_at_the_site_only():
    ann = Principal("ann", roles={ELM: frozenset({Role.SITE_ADMIN})})
    assert may(ann, Action.SITE_CONFIGURE, Subject(site=ELM))
    assert not may(ann, Action.SITE_CONFIGURE, Subject(site="T2_RU_Oak"))
    assert not may(ann, Action.GRID_CONFIGURE, Subject(site=ELM))
    # A role given in a group is none at a site, nor the other way round.
    assert not may(somebody(star=Role.SITE_ADMIN), Action.SITE_CONFIGURE, Subject(group="star", site=ELM))
    operator_there = Principal("ann", roles={ELM: frozenset({Role.OPERATOR})})
    assert not may(operator_there, Action.GRID_CONFIGURE, Subject(site=ELM))


def test_a_role_under_no_scope_is_worth_nothing():
    assert not may(Principal("ann", roles={"": frozenset(Role)}), Action.AGENT_CONTROL, Subject())


def test_a_refusal_names_the_missing_role():
    with pytest.raises(Denied, match="ann may not approve or assign requests") as caught:
        require(somebody(star=Role.USER), Action.REQUEST_DECIDE, Subject(group="star", site=ELM))
    assert caught.value.hint == "it needs the role production or operator in group star or everywhere"
    with pytest.raises(Denied) as caught:
        require(Principal("ann"), Action.SUBSCRIPTION_DECIDE, Subject(owner="bob", site=ELM))
    hint = f"it needs the role site_admin or operator at {ELM} or everywhere, or its owner bob"
    assert caught.value.hint == hint
    require(OPERATOR, Action.REQUEST_DECIDE)


def test_areas():
    ann = Principal("ann", frozenset({"star", "hlt"}))
    assert writable_areas(ann) == ("/store/user/ann", "/store/group/hlt", "/store/group/star")
    assert may_write(ann, "/store/user/ann/x.root")
    assert may_write(ann, "/store/group/star/d/x.root")
    for lfn in (
        "/store/user/anna/x.root", "/store/user/ann", "/store/user/bob/x", "/store/group/phenix/x",
        "/store/mc/x.root", "/store/unmerged/x.root",
    ):  # fmt: skip
        assert not may_write(ann, lfn)


def test_production_writes_official_areas():
    ann = somebody(star=Role.PRODUCTION)
    for area in ("data", "mc", "unmerged"):
        assert may_write(ann, f"/store/{area}/x.root")
    assert not may_write(ann, "/store/user/bob/x.root")


@given(st.text(alphabet="./an-_", max_size=12))
def test_no_path_leads_out_of_an_area(tail):
    try:
        allowed = may_write(Principal("ann"), f"/store/user/ann{tail}")
    except UsageError:
        return
    parts = f"/store/user/ann{tail}".split("/")
    assert allowed == (parts[3] == "ann" and len(parts) > 4)
    assert ".." not in parts
