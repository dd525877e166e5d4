"""What can happen at the ledger, in the exhaustive lifecycle check: one function for each group."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dkey.conformance.lifecycle_state import (
    AUTHORITY_X,
    CARD,
    LONG_S,
    OWNERS,
    PEOPLE,
    SHORT_S,
    USER,
    VEHICLE,
    WASH,
    Violation,
    key_of,
    mail,
    owner_account,
    owner_of,
    share_id,
)
from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle import commands as c
from dkey.lifecycle.claims import NO_SLOT, KeyClaims, WithdrawalClaims, holder_ref
from dkey.lifecycle.flags import CascadeScope
from dkey.lifecycle.ring import Ring, apply
from dkey.lifecycle.ring_effects import KeyEnded, KeyHeld
from dkey.lifecycle.ring_rules import RANK
from dkey.lifecycle.ring_state import Ended, ShareState
from dkey.lifecycle.roles import Permission, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dkey.conformance.lifecycle_state import Chain, Scene, State, Steps
    from dkey.lifecycle.ring_effects import Effect
    from dkey.lifecycle.ring_state import Share

__all__ = [
    "cards",
    "command",
    "forgeries",
    "handover",
    "holds",
    "invitations",
    "orders",
    "pauses",
    "publish",
    "repeats",
    "revocations",
    "shares",
    "start",
    "suspensions",
    "vetoes",
]


# --- one command -------------------------------------------------------------------------------


def command(scene: Scene, state: State, wanted: c.Command) -> State:
    """Apply one command; a list that it changed is published at once.

    Raises:
        PolicyRefusal: The rules say no.
        Violation: It took what is not below it.
    """
    ring, effects = apply(state.ring, wanted, at_s=state.now_s, draft_type=scene.policy.draft)
    _check_downwards(state.ring, wanted, effects)
    after = replace(state, ring=ring)
    before = (state.ring.epoch, state.ring.list_number)
    return publish(scene, after) if (ring.epoch, ring.list_number) != before else after


def publish(scene: Scene, state: State) -> State:
    """Make the present list of every issuer a paper."""
    if not state.ring.list_number:
        return state
    lists = (state.ring.withdrawal(each, issued_s=state.now_s) for each in scene.world.issuers)
    return replace(state, papers=(*state.papers, *lists))


def _check_downwards(before: Ring, wanted: c.Command, effects: Iterable[Effect]) -> None:
    target = getattr(wanted, "item", None)
    share = before.share(target) if target is not None else None
    if share is None:
        return
    for each in effects:
        if not isinstance(each, KeyEnded | KeyHeld) or each.item == target:
            continue
        if isinstance(each, KeyEnded) and each.reason is Ended.EXPIRED:
            continue
        other = before.share(each.item)
        if other is None or not _below(before, share, other):
            raise Violation("a withdrawal took a key that is not below it", "")


def _below(ring: Ring, share: Share, other: Share) -> bool:
    if RANK[other.role] <= RANK[share.role]:
        return False
    if ring.flags.cascade_scope is CascadeScope.VEHICLE and share.role is Role.ACTUAL_USER:
        return True
    above = {share.account, *(each.account for each in ring.live if each.grantor == share.account)}
    return other.grantor in above


def _answers(scene: Scene, state: State, text: str, change: Callable[[], State]) -> Steps:
    """Yield what a change leaves, where it is allowed, and what a crash around the answer leaves.

    A crash before the write leaves everything as it was, which is no other state.
    """
    try:
        after = change()
    except PolicyRefusal:
        return
    except Violation as exc:
        raise Violation(str(exc), text) from exc
    yield text, after
    if not scene.world.crashes or after.papers == state.papers:
        return
    if scene.policy.write_first:
        crash = "the authority crashes after the write, before the answer"
        yield f"{text}, but {crash}", replace(after, papers=state.papers)
    else:
        crash = "the authority crashes after the answer, before the write"
        yield f"{text}, but {crash}", replace(state, papers=after.papers)


def _commands(scene: Scene, state: State, wanted: Iterator[tuple[str, c.Command]]) -> Steps:
    for text, each in wanted:

        def change(each: c.Command = each) -> State:
            return command(scene, state, each)

        yield from _answers(scene, state, text, change)


# --- giving ------------------------------------------------------------------------------------


def _people(scene: Scene, state: State) -> list[str]:
    """Return whom a key may be given to."""
    known = {owner_of(each) for each in state.ring.spent}
    known |= {each.partition("@")[0] for each in state.ring.vetoes}
    # Those to whom nothing ever happened are alike: it is enough to go on with one of them.
    fresh = [name for name in PEOPLE if name not in known]
    kept = [name for name in PEOPLE if name in known]
    return kept + (fresh[:1] if scene.reduced else fresh)


def _gives(scene: Scene, state: State) -> Iterator[tuple[str, str, str, bool]]:
    """Yield in words, to whom, by whom, and whether only until the afternoon."""
    owner, people = owner_account(state), _people(scene, state)
    for name in (*people, *((USER,) if scene.world.corporate else ())):
        yield "the owner", name, owner, False
    if scene.world.corporate:
        for name in people:
            yield "the actual user", name, mail(USER), False
    if not any(each.endswith(b"s") for each in state.ring.spent) and not state.late:
        for name in people:
            yield "the owner", name, owner, True


def _invite(scene: Scene, state: State, name: str, by: str, *, short: bool) -> State:
    number = sum(1 for each in state.ring.spent if owner_of(each) == name) + 1
    invite = c.Invite(
        actor=by,
        share_id=share_id(name, number, short=short),
        account=mail(name),
        role=Role.ACTUAL_USER if name == USER else Role.ASSOCIATE,
        permission=Permission.ENTRY_AND_START,
        not_before_s=0,
        not_after_s=SHORT_S if short else LONG_S,
    )
    return command(scene, state, invite)


def _accept(scene: Scene, state: State, item: bytes) -> State:
    """Accept an invitation and sign the attestation."""
    name = owner_of(item)
    accept = c.Accept(actor=mail(name), share_id=item, key_x=key_of(name))
    return _signed(scene, command(scene, state, accept), item)


def _signed(scene: Scene, state: State, item: bytes) -> State:
    return replace(state, papers=(*state.papers, _chain(scene, state, item)))


def _chain(scene: Scene, state: State, item: bytes) -> Chain:
    share = state.ring.share(item)
    assert share is not None
    root_x = AUTHORITY_X
    if scene.world.owner_signs:
        root_x = state.ring.owner_key_x or b""
    parents: Chain = ()
    if share.grantor == mail(USER):
        of_user = [
            each
            for each in state.papers
            if isinstance(each, tuple)
            and owner_of(each[-1].share_id) == USER
            and each[-1].epoch == state.ring.epoch
        ]
        if not of_user:
            raise PolicyRefusal(RefusalCode.NOT_SYNCED, "the actual user has no attestation")
        parents = of_user[-1]
    return (
        *parents,
        KeyClaims(
            vehicle=VEHICLE,
            epoch=state.ring.epoch,
            slot=share.slot,
            share_id=item,
            holder=holder_ref(VEHICLE, share.account),
            public_key=b"\4" + (share.key_x or b"") + bytes(32),
            role=share.role,
            permission=share.permission,
            not_before_s=share.not_before_s,
            not_after_s=share.not_after_s,
            reshare=share.role is Role.ACTUAL_USER,
            list_number=state.ring.list_number,
            issued_s=state.now_s,
            signer=key_of(USER) if parents else root_x,
        ),
    )


def shares(scene: Scene, state: State) -> Steps:
    """Yield keys that are given: invited, accepted and signed in one go."""
    for giver, name, by, short in _gives(scene, state):
        text = f"{giver} shares with {name}" + (" until the afternoon" if short else "")

        def give(name: str = name, by: str = by, short: bool = short) -> State:
            invited = _invite(scene, state, name, by, short=short)
            return _accept(scene, invited, invited.ring.shares[-1].share_id)

        yield from _answers(scene, state, text, give)


def invitations(scene: Scene, state: State) -> Steps:
    """Yield invitations that are made, and pending ones that are accepted or declined."""
    for giver, name, by, short in _gives(scene, state):
        text = f"{giver} invites {name}" + (" until the afternoon" if short else "")

        def invite(name: str = name, by: str = by, short: bool = short) -> State:
            return _invite(scene, state, name, by, short=short)

        yield from _answers(scene, state, text, invite)
    for share in state.ring.live:
        item, name = share.share_id, owner_of(share.share_id)
        if share.state is ShareState.PENDING:

            def accept(item: bytes = item) -> State:
                return _accept(scene, state, item)

            yield from _answers(scene, state, f"{name} accepts", accept)
        decline = c.Decline(actor=mail(name), share_id=item)
        yield from _commands(scene, state, iter([(f"{name} gives it back", decline)]))


def repeats(scene: Scene, state: State) -> Steps:
    """Yield what somebody asks for again whose answer was lost, or who needs it anew."""
    lists = {
        (each.epoch, each.number) for each in state.papers if isinstance(each, WithdrawalClaims)
    }
    ring = state.ring
    if ring.list_number and (ring.epoch, ring.list_number) not in lists:
        yield "somebody asks for the newest list", publish(scene, state)
    signed = {
        (each[-1].epoch, each[-1].share_id) for each in state.papers if isinstance(each, tuple)
    }
    for share in ring.live:
        item = share.share_id
        if share.state is ShareState.ACTIVE and (ring.epoch, item) not in signed:
            try:
                yield f"{owner_of(item)} asks for the attestation", _signed(scene, state, item)
            except PolicyRefusal:
                continue
    restored = Ring.from_value(ring.to_value())
    yield "the authority restarts", replace(state, ring=restored)


def orders(scene: Scene, state: State) -> Steps:
    """Yield a car wash that is ordered."""
    number = sum(1 for each in state.ring.spent if owner_of(each) == WASH) + 1
    booking = c.Booking(
        booking_id="1",
        provider=mail(WASH),
        purpose="car wash",
        begins_s=0,
        ends_s=LONG_S,
        needs_start=False,
        third_party_consent=True,
    )
    by = [("the owner", owner_account(state))]
    by += [(owner_of(each.share_id), each.account) for each in state.ring.live]
    for who, account in by:
        invite = c.Invite(
            actor=account,
            share_id=share_id(WASH, number),
            account=mail(WASH),
            role=Role.PROVIDER,
            permission=Permission.ENTRY,
            not_before_s=0,
            not_after_s=LONG_S,
            booking=booking,
        )

        def order(invite: c.Invite = invite) -> State:
            return _accept(scene, command(scene, state, invite), invite.share_id)

        yield from _answers(scene, state, f"{who} orders a car wash", order)


# --- taking back -------------------------------------------------------------------------------


def revocations(scene: Scene, state: State) -> Steps:
    """Yield shares that the owner revokes."""
    owner = owner_account(state)
    yield from _commands(
        scene,
        state,
        (
            (
                f"the owner revokes {owner_of(each.share_id)}",
                c.Revoke(actor=owner, item=each.share_id),
            )
            for each in state.ring.live
        ),
    )


def suspensions(scene: Scene, state: State) -> Steps:
    """Yield shares that the owner suspends or resumes."""
    owner = owner_account(state)
    wanted: list[tuple[str, c.Command]] = []
    for share in state.ring.live:
        name, item = owner_of(share.share_id), share.share_id
        if share.holds:
            wanted.append((f"the owner resumes {name}", c.Resume(actor=owner, item=item)))
        else:
            wanted.append((f"the owner suspends {name}", c.Suspend(actor=owner, item=item)))
    yield from _commands(scene, state, iter(wanted))


def cards(scene: Scene, state: State) -> Steps:
    """Yield the card that the owner revokes."""
    card = state.ring.card(CARD)
    if card is not None and card.ended is None:
        revoke = c.Revoke(actor=owner_account(state), item=CARD)
        yield from _commands(scene, state, iter([("the owner revokes the card", revoke)]))


def holds(scene: Scene, state: State) -> Steps:
    """Yield the authority's suspension of the owner, and its end."""
    owner, cause = owner_account(state), c.HoldCause.IDENTITY_THEFT
    if state.ring.account_holds:
        release = c.Release(actor=c.AUTHORITY, account=owner, cause=cause)
        yield from _commands(scene, state, iter([("the authority releases the owner", release)]))
    elif state.ring.owner is not None:
        hold = c.Hold(actor=c.AUTHORITY, account=owner, cause=cause)
        yield from _commands(scene, state, iter([("the authority suspends the owner", hold)]))


def start(scene: Scene, state: State) -> Steps:
    """Yield starting, which the authority forbids or permits."""
    on = not state.ring.immobilised
    text = "the authority forbids start" if on else "the authority permits start"
    forbid = c.Immobilise(actor=c.AUTHORITY, on=on)
    yield from _commands(scene, state, iter([(text, forbid)]))


def pauses(scene: Scene, state: State) -> Steps:
    """Yield a pause, and its end."""
    owner = owner_account(state)
    if state.ring.pause is None:
        wanted: tuple[str, c.Command] = ("the owner pauses", c.Pause(actor=owner, days=1))
    else:
        wanted = ("the owner ends the pause", c.EndPause(actor=owner))
    yield from _commands(scene, state, iter([wanted]))


def vetoes(scene: Scene, state: State) -> Steps:
    """Yield accounts with which the owner forbids sharing, and permits it again."""
    owner = owner_account(state)
    wanted: list[tuple[str, c.Command]] = []
    for name in _people(scene, state):
        if mail(name) in state.ring.vetoes:
            wanted.append(
                (f"the owner permits {name}", c.LiftVeto(actor=owner, account=mail(name)))
            )
        else:
            wanted.append((f"the owner vetoes {name}", c.Veto(actor=owner, account=mail(name))))
    yield from _commands(scene, state, iter(wanted))


def forgeries(scene: Scene, state: State) -> Steps:
    """Yield an actual user whom the modified phone of a person who owns the vehicle makes up."""
    signer, item = state.car.owner_x, share_id(USER, 1)
    made_up = any(isinstance(each, tuple) and each[-1].share_id == item for each in state.papers)
    if scene.world.corporate or signer is None or made_up:
        return
    user = KeyClaims(
        vehicle=VEHICLE,
        epoch=state.car.epoch,
        slot=NO_SLOT,
        share_id=item,
        holder=holder_ref(VEHICLE, mail(USER)),
        public_key=b"\4" + key_of(USER) + bytes(32),
        role=Role.ACTUAL_USER,
        permission=Permission.ENTRY_AND_START,
        not_before_s=0,
        not_after_s=LONG_S,
        reshare=True,
        list_number=0,
        issued_s=state.now_s,
        signer=signer,
    )
    yield (
        "the owner's phone makes up an actual user",
        replace(state, papers=(*state.papers, (user,))),
    )


def handover(scene: Scene, state: State) -> Steps:
    """Yield the change to another owner without a reset, which the vehicle takes later."""
    ring, car = state.ring, state.car
    former = key_of(OWNERS[0])
    if ring.owner is not None and ring.owner_key_x == former and car.epoch == 0:
        heir = c.Party(account=mail(OWNERS[1]), kind=ring.owner.kind)
        change = c.ChangeOwner(actor=ring.owner.account, owner=heir, key_x=key_of(OWNERS[1]))
        yield from _commands(scene, state, iter([("the owner hands over to the heir", change)]))
    if car.epoch == 0 and ring.owner_key_x not in (None, car.owner_x):
        stay = frozenset(each.share_id for each in ring.live)
        after = replace(
            state,
            car=car.change_owner(ring.owner_key_x, shares=stay),
            dead=state.dead | (ring.spent - stay),
        )
        yield "the vehicle takes the change of owner", after
    if car.epoch == 1 and ring.epoch == 0:
        told = c.BeginEpoch(actor=c.VEHICLE, epoch=car.epoch)
        yield from _commands(scene, state, iter([("the vehicle tells of its epoch", told)]))
