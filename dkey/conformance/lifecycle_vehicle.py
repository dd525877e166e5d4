"""What can happen at the vehicle, in the exhaustive lifecycle check.

It may crash between any two of its writes. A crash before a commit leaves everything as it was: no
other state, and nobody was answered. A crash after it leaves what was committed, the answer lost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dkey.conformance.lifecycle_ledger import command
from dkey.conformance.lifecycle_state import (
    CARD,
    EVENING_S,
    EVERYTHING,
    OWNERS,
    key_of,
    mail,
    owner_account,
    owner_of,
)
from dkey.errors import PolicyRefusal
from dkey.lifecycle import commands as c
from dkey.lifecycle.claims import WithdrawalClaims
from dkey.lifecycle.roles import CardProvenance

if TYPE_CHECKING:
    from dkey.conformance.lifecycle_state import Chain, Scene, State, Steps

__all__ = ["clocks", "pairing", "papers", "resets", "restarts"]


def _writes(scene: Scene, committed: State, answered: State, both: State) -> Steps:
    """Yield what is left after each write: a crash may come between any two."""
    yield "", both
    if scene.policy.commit_first:
        yield ", and crashes after the commit, before the answer", committed
    else:
        yield ", and crashes after the answer, before the commit", answered


def papers(scene: Scene, state: State) -> Steps:
    """Yield every list and attestation that somebody shows, however old."""
    for paper in state.papers:
        if isinstance(paper, WithdrawalClaims):
            yield from _takes(scene, state, paper)
        else:
            yield from _shows(scene, state, paper)


def _takes(scene: Scene, state: State, claims: WithdrawalClaims) -> Steps:
    try:
        car = state.car.take_list(claims)
    except PolicyRefusal:
        return
    dead = state.dead | frozenset(claims.revoked)
    told = state.told | frozenset(claims.revoked) | _suspended_mark(claims)
    told = frozenset(each for each in told if not _old_mark(each, claims))
    committed = replace(state, car=car, dead=dead)
    answered = replace(state, told=told)
    whose = "" if len(scene.world.issuers) == 1 else f" of the {claims.issuer.value.lower()}"
    for text, after in _writes(scene, committed, answered, replace(committed, told=told)):
        yield f"the vehicle gets list {claims.number}{whose}{text}", after


def _suspended_mark(claims: WithdrawalClaims) -> frozenset[bytes]:
    """Return the items that this list suspends, marked with its issuer, epoch and number."""
    mark = b"~%s~%d~%d~" % (claims.issuer.value.encode(), claims.epoch, claims.number)
    every = (EVERYTHING,) if claims.all_suspended else ()
    return frozenset(mark + each for each in (*claims.suspended, *every))


def _old_mark(each: bytes, claims: WithdrawalClaims) -> bool:
    """Whether a mark is of an older list of this issuer, or of another epoch."""
    if not each.startswith(b"~"):
        return False
    _, issuer, epoch, number, _ = each.split(b"~", 4)
    older = issuer == claims.issuer.value.encode() and int(number) < claims.number
    return older or int(epoch) != claims.epoch


def _shows(scene: Scene, state: State, chain: Chain) -> Steps:
    claims = chain[-1]
    name = owner_of(claims.share_id)
    try:
        car = state.car.admit(chain, claims.public_key[1:33], state.wall_s)
    except PolicyRefusal:
        return
    committed = replace(state, car=car)
    try:
        activate = c.Activate(actor=c.VEHICLE, share_id=claims.share_id)
        answered = command(scene, state, activate)
    except PolicyRefusal:
        answered = state
    both = replace(answered, car=car)
    for text, after in _writes(scene, committed, answered, both):
        yield f"{name} shows the attestation and opens{text}", after


def clocks(_: Scene, state: State) -> Steps:
    """Yield the passing of time, and the steps of the vehicle's clock."""
    if not state.late:
        yield "it becomes evening", replace(state, late=1)
    if state.late and not state.wall:
        short = frozenset(each for each in state.ring.spent if each.endswith(b"s"))
        yield (
            "the vehicle's clock shows the evening",
            replace(state, wall=1, car=state.car.at(EVENING_S), dead=state.dead | short),
        )
    if state.wall:
        yield "the vehicle's clock is set back to noon", replace(state, wall=0)


def resets(scene: Scene, state: State) -> Steps:
    """Yield factory resets, their reports, and the next owner."""
    ring, car = state.ring, state.car
    if car.epoch < scene.world.resets:
        dead = state.dead | ring.spent
        yield (
            "somebody factory-resets the vehicle",
            replace(state, car=car.factory_reset(), dead=dead),
        )
    if ring.epoch < car.epoch:
        report = c.FactoryReset(actor=c.VEHICLE, epoch=car.epoch)
        told = command(scene, state, report)
        yield "the vehicle reports the reset", replace(told, dead=told.dead | ring.spent)
    elif ring.epoch == car.epoch and car.owner_x is None:
        name = OWNERS[car.epoch % 2]
        kind = c.PartyKind.CORPORATE if scene.world.corporate else c.PartyKind.PERSON
        found = c.Found(
            actor=c.AUTHORITY if scene.world.corporate else mail(name),
            owner=c.Party(account=mail(name), kind=kind),
            key_x=key_of(name),
            epoch=car.epoch,
        )
        try:
            linked = command(scene, state, found)
        except PolicyRefusal:
            return
        yield "the next owner pairs", replace(linked, car=car.enrol_owner(key_of(name)))


def pairing(scene: Scene, state: State) -> Steps:
    """Yield the card that the owner pairs at the vehicle."""
    if CARD in state.ring.spent or state.car.owner_x is None:
        return
    pair = c.AddCard(actor=owner_account(state), card=CARD, provenance=CardProvenance.INITIAL)
    try:
        paired = command(scene, state, pair)
        yield "the owner pairs a card", replace(paired, car=state.car.enrol_card(CARD))
    except PolicyRefusal:
        return


def restarts(scene: Scene, state: State) -> Steps:
    """Yield a loss of power: the vehicle goes on from what it committed."""
    car = scene.policy.admissions.from_value(state.car.to_value()).power_cycle()
    yield "the vehicle loses power and starts again", replace(state, car=car)
