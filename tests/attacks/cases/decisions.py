"""What a touch may do: start, cloned cards, enrolment of cards (cases 5, 23, 24)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dkey.control.rules import Action, Grant, Signals
from dkey.control.touch import StartAuthorisation
from dkey.lifecycle.roles import CredentialState, Permission, Role
from dkey.pairing.card import PairingIns
from firmware_mock.stage import Recorder, Replayer

from .. import Broken, Edit, case
from .binding import NO_PROOF
from .parked import HANDLE, PAD, Parked, clone
from .replay import DRAW_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.base import Responder

_FAST_STARTS = Edit(
    module="dkey.control.touch",
    old="        holds=lambda case: case.fast is not False,",
    new="        holds=lambda case: False,",
)


# --- 5 fast transactions --------------------------------------------------------------------------


@case(
    5,
    "no fast transaction authorises a start, whoever ran it",
    source="Apple Platform Security: standard is mandatory for engine start",
    broken=[
        Broken(
            module=_FAST_STARTS.module,
            old=_FAST_STARTS.old,
            new=_FAST_STARTS.new,
            why="the rules of start do not look at the flow",
        ),
        Broken(
            module="dkey.control.touch",
            old="return StartAuthorisation(presented=True, grant=grant, fast=fast)",
            new="return StartAuthorisation(presented=True, grant=grant, fast=False)",
            why="the pad forgets how the key authenticated",
        ),
    ],
)
def fast_start_rules(seed: int) -> None:
    now_s = float(seed)
    signals = Signals(
        locked=False,
        ignition_on=False,
        gear_in_park=True,
        speed_kmh=0.0,
        doors_closed=True,
        smartkey_near=False,
        updating=False,
        immobilised=False,
        service_mode=False,
        valet=False,
    )
    for role in Role:
        grant = Grant(
            credential_id="one",
            name="one",
            role=role,
            permission=Permission.ENTRY_AND_START,
            state=CredentialState.ACTIVE,
        )
        slow = StartAuthorisation().present(grant, fast=False, now_s=now_s)
        if not slow.start(signals=signals, now_s=now_s).granted:
            raise RuntimeError("not even a standard transaction starts: the case shows nothing")
        quick = StartAuthorisation().present(grant, fast=True, now_s=now_s)
        assert not quick.authorised(signals=signals, now_s=now_s).granted, "fast authorised a start"
        assert not quick.start(signals=signals, now_s=now_s).granted, "fast started the engine"


@case(
    5,
    "the console pad runs a standard transaction even where a fast one would do",
    source="Apple Platform Security: standard is mandatory for engine start",
    broken=[
        Broken(
            module="firmware_mock.touch_tap",
            old="reader.authenticate(Flow.AUTO if handle else Flow.STANDARD)",
            new="reader.authenticate(Flow.AUTO)",
            why="the pad takes what the handle takes, and the rules do not look at the flow",
            also=(_FAST_STARTS,),
        ),
    ],
)
def fast_on_the_pad(seed: int) -> None:
    with Parked(seed) as parked:
        parked.vehicle.body.ignition_on = False
        for _ in range(3):
            outcome = parked.tap(PAD, parked.owner)
            if outcome.code is not None:
                raise RuntimeError(f"the owner cannot start: {outcome.text}")
            assert outcome.flow == "standard", "a fast transaction authorised a start"


@case(
    5,
    "a tap at the door handle starts nothing",
    source="requirements S11, S12",
    broken=[
        Broken(
            module="firmware_mock.vehicle",
            old="""                self._last_touch_s = self._clock()
                self.body.unlock()
""",
            new="""                self._last_touch_s = self._clock()
                self._pad = StartAuthorisation().present(grant, fast=False, now_s=self._clock())
                self.body.unlock()
""",
            why="who unlocks may start (Herfurt 2022 rests on this comfort)",
        ),
    ],
)
def handle_starts_nothing(seed: int) -> None:
    with Parked(seed) as parked:
        parked.vehicle.body.ignition_on = False
        for _ in range(2):
            parked.tap(HANDLE, parked.owner)
            assert not parked.vehicle.press_start().granted, "the engine started from the handle"


# --- 23 cloned cards ------------------------------------------------------------------------------


@case(
    23,
    "a copy of all of a card but its private key opens nothing",
    source="cloned access cards",
    broken=[NO_PROOF],
)
def cloned_card(seed: int) -> None:
    with Parked(seed) as parked:
        card = parked.paired_card()
        outcome = parked.tap(HANDLE, clone(parked, card))
        assert outcome.action is None, "a copied card worked the doors"
        assert parked.vehicle.body.locked, "a copied card opened the doors"
        outcome = parked.tap(PAD, clone(parked, card))
        assert outcome.action is None, "a copied card authorised a start"


@case(
    23,
    "an emulator that plays back a card's answers opens nothing",
    source="cloned access cards",
    broken=[DRAW_ONCE],
)
def recorded_card(seed: int) -> None:
    with Parked(seed) as parked:
        card = Recorder(parked.paired_card())
        genuine = parked.tap(PAD, card)
        if genuine.action is None:
            raise RuntimeError(f"the genuine card does not work: {genuine.text}")
        # An emulator answers AUTH1 as recorded; the end of the transaction is not needed to act.
        answers = [*card.answers]
        outcome = parked.tap(PAD, Replayer(answers))
        assert outcome.action is None, "a recording of a card authorised a start"


@case(
    23,
    "a copy without the private key cannot be paired under the genuine card's name",
    source="cloned access cards; model share: attestation of an attacker's key",
    broken=[
        Broken(
            module="dkey.pairing.card",
            old="        public_key.verify(answer[0x9E],"
            " transcript.signed_data(_CARD_USAGE, said))\n",
            new="",
            why="pairing takes the card's public key on trust",
        ),
    ],
)
def cloned_at_pairing(seed: int) -> None:
    with Parked(seed) as parked:
        blank = parked.card()
        parked.authorise()
        outcome = parked.tap(PAD, clone(parked, blank))
        assert outcome.action is None, "a copy was paired"
        assert not parked.cards, "a card was enrolled that never proved its key"


# --- 24 enrolment window --------------------------------------------------------------------------

_OPENS = Broken(
    module="firmware_mock.vehicle",
    old="""            case Action.AUTHORISE_START:
""",
    new="""            case Action.AUTHORISE_START:
                from dkey.control.card_window import CardWindow, WindowState
                self.card_desk.window = CardWindow(
                    state=WindowState.AWAIT_CARD, deadline_s=self._clock() + 130.0, owner=grant
                )
""",
    why="a tap that authorises start lets a card be enrolled for 130 s",
)


@case(
    24,
    "after a tap that authorises start, no card can be enrolled",
    source="Herfurt 2022: 130 s after a tap",
    broken=[_OPENS],
)
def no_window(seed: int) -> None:
    with Parked(seed) as parked:
        for position in (HANDLE, PAD):
            parked.tap(position, parked.owner)
            outcome = parked.tap(PAD, parked.card())
            assert outcome.action is None, "a card was enrolled without the owner's wish"
        assert not parked.cards, "a card was enrolled without the owner's wish"


@case(
    24,
    "a guest who may drive may not enrol a card",
    source="Herfurt 2022; requirements C32",
    broken=[
        Broken(
            module="dkey.control.card_rules",
            old="case.owner is None or case.owner.role is not Role.OWNER",
            new="case.owner is None",
            why="whoever may start may enrol",
        ),
    ],
)
def guest_enrols(seed: int) -> None:
    with Parked(seed) as parked:
        guest = parked.phone("guest", Role.ASSOCIATE)
        parked.vehicle.open_card_window()
        assert parked.tap(PAD, guest).action is None, "a guest authorised a card"
        parked.tap(PAD, parked.card())
        assert not parked.cards, "a guest enrolled a card"


@case(
    24,
    "the window takes one card, and none once its time is up",
    source="Herfurt 2022; lifecycle policy",
    broken=[
        Broken(
            module="dkey.control.card_window",
            old="        if self.deadline_s is not None and now_s > self.deadline_s:",
            new="        if False:",
            why="an open window never closes by itself",
        ),
        Broken(
            module="dkey.control.card_window",
            old="        return CardWindow(state=state)\n",
            new="        return self\n",
            why="the window stays open after a card was enrolled",
        ),
    ],
)
def late_and_second_cards(seed: int) -> None:
    with Parked(seed) as parked:
        parked.authorise()
        parked.clock.advance(59.5)  # the tap itself takes 2 s
        parked.tap(PAD, parked.card())
        assert not parked.cards, "a card was enrolled after the window's time"
        parked.paired_card()
        parked.tap(PAD, parked.card())
        enrolled: int = parked.cards
        assert enrolled == 1, "one authorisation enrolled two cards"


@case(
    24,
    "an owner who lost the right after authorising enrols nothing",
    source="life_bfs: rights are those of now",
    broken=[
        Broken(
            module="firmware_mock.card_desk",
            old="                owner = self._keys.grant(owner.credential_id)\n",
            new="                pass\n",
            why="the owner's rights count as they were on the pad",
        ),
    ],
)
def revoked_owner_enrols(seed: int) -> None:
    with Parked(seed) as parked:
        parked.authorise()
        known = parked.vehicle.store.credential_by_x(parked.owner.public_key.x)
        if known is None:
            raise RuntimeError("the owner is not enrolled")
        parked.vehicle.set_state(known.credential_id, CredentialState.REVOKED)
        outcome = parked.tap(PAD, parked.card())
        assert outcome.action is not Action.ENROL_CARD, "a revoked owner's card was enrolled"
        assert not parked.cards, "a revoked owner's card was enrolled"


class _Meanwhile:
    """A card with which something happens at the vehicle before it answers one command."""

    def __init__(self, card: Responder, ins: PairingIns, happens: Callable[[], object]) -> None:
        self._card = card
        self._ins = ins
        self._happens = happens

    def answer(self, command: bytes) -> bytes:
        if command[1] == self._ins:
            self._happens()
        return self._card.answer(command)

    def field_off(self) -> None:
        self._card.field_off()


@case(
    24,
    "a card that answers slowly cannot stretch the window",
    source="Herfurt 2022; lifecycle policy CARD_PAIRING_WINDOW_S",
    broken=[
        Broken(
            module="firmware_mock.card_desk",
            old="""        self.tick()
        try:
            if self._keys.store""",
            new="""        try:
            if self._keys.store""",
            why="the deadline is checked as the tap begins, and never again",
        ),
    ],
)
def slow_card(seed: int) -> None:
    for ins in (PairingIns.BEGIN, PairingIns.BIND):
        with Parked(seed) as parked:
            parked.authorise()
            late = _Meanwhile(parked.card(), ins, partial(parked.clock.advance, 600.0))
            parked.tap(PAD, late)
            assert not parked.cards, f"a card was enrolled 600 s late, by waiting in {ins.name}"


@case(
    24,
    "what ends the owner's authority while the card answers ends the enrolment",
    source="life_bfs: rights are those of now",
    broken=(
        Broken(
            module="firmware_mock.card_desk",
            old="            window = self._admit(card)\n",
            new="            window = CardWindow()\n",
            why="nothing is asked again after COMMIT",
        ),
    ),
)
def authority_lost_in_commit(seed: int) -> None:
    with Parked(seed) as parked:
        parked.authorise()
        stop = parked.vehicle.cancel_card_window
        parked.tap(PAD, _Meanwhile(parked.card(), PairingIns.COMMIT, stop))
        assert not parked.cards, "a card was enrolled after the window was cancelled"
    with Parked(seed) as parked:
        parked.authorise()
        known = parked.vehicle.store.credential_by_x(parked.owner.public_key.x)
        if known is None:
            raise RuntimeError("the owner is not enrolled")
        revoke = partial(parked.vehicle.set_state, known.credential_id, CredentialState.REVOKED)
        parked.tap(PAD, _Meanwhile(parked.card(), PairingIns.COMMIT, revoke))
        assert not parked.cards, "a revoked owner's card was enrolled"


@case(
    24,
    "a replacement that was cancelled leaves no second card beside the first",
    source="requirements S25",
    broken=(
        Broken(
            module="firmware_mock.card_desk",
            old="            window = self._admit(card)\n",
            new="            window = CardWindow()\n",
            why="nothing is asked again after COMMIT",
        ),
    ),
)
def cancelled_replacement(seed: int) -> None:
    with Parked(seed) as parked:
        parked.paired_card()
        (old,) = parked.vehicle.store.cards()
        parked.vehicle.open_card_window(replaces=old.credential_id)
        if parked.tap(PAD, parked.owner).action is not Action.AUTHORISE_CARD:
            raise RuntimeError("the owner could not authorise a replacement")
        stop = parked.vehicle.cancel_card_window
        parked.tap(PAD, _Meanwhile(parked.card(), PairingIns.COMMIT, stop))
        active = [c for c in parked.vehicle.store.cards() if c.holds_place]
        assert len(active) == 1, "the damaged card and its replacement are both active"
