"""When a card may be paired, and which reason is given when not."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from dkey.control.card_rules import CARD_PAIRING_RULES, EnrolledCard, decide_card_pairing
from dkey.control.rules import Grant, Signals
from dkey.errors import PolicyRefusal
from dkey.errors import RefusalCode as Code
from dkey.lifecycle.policy import MAX_CARDS
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission, Role

READY = {
    "locked": False,
    "ignition_on": True,
    "gear_in_park": True,
    "speed_kmh": 0.0,
    "service_mode": False,
    "valet": False,
}
TRI = (True, False, None)
GONE = (CredentialState.REVOKED, CredentialState.REPLACED)


def owner(role=Role.OWNER, state=CredentialState.ACTIVE):
    return Grant(
        credential_id="phone",
        name="phone",
        role=role,
        permission=Permission.ENTRY_AND_START,
        state=state,
    )


def card(name, provenance=CardProvenance.PURCHASED, state=CredentialState.ACTIVE):
    return EnrolledCard(credential_id=name, provenance=provenance, state=state)


def refusal(**changed):
    """The code of the refusal, or None."""
    case = {
        "owner": owner(),
        "signals": Signals(**READY),
        "cards": (),
        "provenance": CardProvenance.PURCHASED,
        "replaces": None,
        "fast": False,
    } | changed
    try:
        decide_card_pairing(case.pop("owner"), **case)
    except PolicyRefusal as exc:
        return exc.code
    return None


def body(**changed):
    return Signals(**{**READY, **changed})


FULL = (card("a"), card("b"))
TABLE = [
    (Code.KEY_SUSPENDED, {"owner": owner(state=CredentialState.SUSPENDED)}),
    (Code.CARD_BLOCKED, {"owner": owner(state=CredentialState.REPLACED)}),
    (Code.KEY_REVOKED, {"owner": owner(state=CredentialState.REVOKED)}),
    (Code.KEY_EXPIRED, {"owner": replace(owner(), expired=True)}),
    (Code.NOT_AUTHORISED, {"owner": None}),
    (Code.NOT_AUTHORISED, {"fast": True}),
    (Code.IGNITION_OFF, {"signals": body(ignition_on=False)}),
    (Code.DRIVING, {"signals": body(speed_kmh=1.0)}),
    (Code.SERVICE_MODE, {"signals": body(service_mode=True)}),
    (Code.VALET, {"signals": body(valet=True)}),
    (Code.KEY_UNKNOWN, {"replaces": "nobody"}),
    (Code.CARD_BLOCKED, {"replaces": "a", "cards": (card("a", state=CredentialState.REPLACED),)}),
    (Code.CARD_LIMIT, {"cards": FULL}),
    (
        Code.CARD_LIMIT,
        {
            "cards": (card("a", CardProvenance.INITIAL, CredentialState.REVOKED),),
            "provenance": CardProvenance.INITIAL,
        },
    ),
]


def test_the_pairing_passes_exactly_when_every_condition_holds_in_every_combination():
    people = (
        None,
        *(owner(role, state) for role, state in product(Role, CredentialState)),
    )
    for who, fast, ignition, park, speed, service, valet in product(
        people, (True, False), TRI, TRI, (0.0, 5.0, None), TRI, TRI
    ):
        now = body(
            ignition_on=ignition,
            gear_in_park=park,
            speed_kmh=speed,
            service_mode=service,
            valet=valet,
        )
        passes = (
            who == owner()
            and not fast
            and (ignition, park, speed, service, valet) == (True, True, 0.0, False, False)
        )
        assert (refusal(owner=who, fast=fast, signals=now) is None) is passes, (who, fast, now)


def test_the_card_count_rules_hold_for_every_set_of_three_cards_and_every_replacement():
    kinds = list(product(CardProvenance, CredentialState))
    for trio in product([None, *kinds], repeat=3):
        cards = tuple(
            card(name, *kind) for name, kind in zip("abc", trio, strict=True) if kind is not None
        )
        if sum(c.provenance is CardProvenance.INITIAL for c in cards) > 1:
            continue
        for replaces, provenance in product((None, "a"), CardProvenance):
            old = [c for c in cards if c.credential_id == replaces]
            staying = [c for c in cards if c.state not in GONE and c.credential_id != replaces]
            passes = (
                (replaces is None or (old and old[0].state not in GONE))
                and len(staying) < MAX_CARDS
                and not (
                    provenance is CardProvenance.INITIAL
                    and any(c.provenance is CardProvenance.INITIAL for c in cards)
                )
            )
            code = refusal(cards=cards, replaces=replaces, provenance=provenance)
            assert (code is None) == bool(passes), (cards, replaces, provenance)


@pytest.mark.parametrize(("code", "case"), TABLE)
def test_each_rule_alone_refuses_with_its_own_code(code, case):
    assert refusal(**case) is code


def test_the_table_of_this_file_covers_every_rule_in_order():
    assert [code for code, _ in TABLE] == [rule.code for rule in CARD_PAIRING_RULES]


def test_the_owner_with_the_ignition_on_pairs_a_card():
    assert refusal() is None


@pytest.mark.parametrize("role", [Role.ACTUAL_USER, Role.ASSOCIATE, Role.CARD])
def test_nobody_but_the_owner_pairs_a_card(role):
    assert refusal(owner=owner(role)) is Code.NOT_AUTHORISED


def test_without_any_signal_no_card_is_paired():
    assert refusal(signals=None) is Code.IGNITION_OFF


def test_a_replacement_takes_the_place_of_the_old_card():
    assert refusal(cards=FULL, replaces="a") is None


def test_a_suspended_card_keeps_its_place():
    cards = (card("a", state=CredentialState.SUSPENDED), card("b"))
    assert refusal(cards=cards) is Code.CARD_LIMIT


@pytest.mark.parametrize("state", GONE)
def test_a_card_out_of_use_frees_its_place(state):
    assert refusal(cards=(card("a", state=state), card("b"))) is None


def test_the_initial_card_is_replaced_by_a_purchased_one_only():
    cards = (card("a", CardProvenance.INITIAL),)
    assert refusal(cards=cards, replaces="a") is None
    again = refusal(cards=cards, replaces="a", provenance=CardProvenance.INITIAL)
    assert again is Code.CARD_LIMIT


def test_a_refusal_says_what_to_do_next():
    with pytest.raises(PolicyRefusal) as caught:
        decide_card_pairing(
            None,
            signals=None,
            cards=(),
            provenance=CardProvenance.PURCHASED,
            replaces=None,
            fast=False,
        )
    assert "owner's phone" in caught.value.hint
