"""An owner pairs a phone at the head unit: over the pad, over BLE, torn, restarted, locked out."""

from __future__ import annotations

import hashlib
from collections import deque

import pytest

from dkey.access.applet import AppletHost
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.device import AccessApplet
from dkey.access.profile import VEHICLE
from dkey.control.owner_window import ATTEMPT_TIMEOUT_S, CODE_TIMEOUT_S, OwnerState
from dkey.control.rules import Action
from dkey.control.touch import Position
from dkey.crypto.p256 import ORDER
from dkey.crypto.secret import Secret
from dkey.crypto.spake2plus import Registration
from dkey.crypto.vault import MemoryVault
from dkey.errors import DkeyError, LinkError, LinkReason, PolicyRefusal
from dkey.errors import RefusalCode as Code
from dkey.lifecycle.features import DK2, DK2_TOUCH, Capabilities, Feature
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission, Role
from dkey.link.base import Cap
from dkey.link.loopback import loopback
from dkey.pairing.owner import (
    OwnerPairingApplet,
    OwnerPairingDevice,
    Stretch,
    from_sdu,
    parse_code,
    to_sdu,
)
from dkey.pairing.owner_messages import Kind
from dkey.testing import FakeClock, SeededEntropy
from firmware_mock.garage import create_vehicle, open_vehicle
from firmware_mock.owner_desk import OwnerDesk
from firmware_mock.stage import Card

FULL = Capabilities(nfc=True, ble=True, uwb=True, os="android 14")


def stretched(stretch: Stretch, code: Secret) -> Registration:
    """Stand in for scrypt, which is tested by itself and slow."""
    halves = [
        hashlib.sha512(label + stretch.salt + code.reveal()).digest() for label in (b"w0", b"w1")
    ]
    numbers = [int.from_bytes(half, "big") % (ORDER - 1) + 1 for half in halves]
    w0, w1 = (Secret(number.to_bytes(32, "big")) for number in numbers)
    return Registration(w0=w0, w1=w1)


class Phone:
    """A phone that somebody typed a code into; it keeps its key from attempt to attempt."""

    def __init__(self, entropy, code, capabilities=FULL) -> None:
        self.entropy = entropy
        self.code = code
        self.capabilities = capabilities
        self.vault = MemoryVault(key=entropy.ephemeral())
        self.kept = None
        self.errors: list[DkeyError] = []

    def attempt(self) -> OwnerPairingDevice:
        return OwnerPairingDevice(
            vault=self.vault,
            key="key",
            capabilities=self.capabilities,
            entropy=self.entropy,
            keep=self.keep,
        )

    def keep(self, paired) -> None:
        self.kept = paired

    def pairing(self) -> AppletHost:
        applet = OwnerPairingApplet(
            self.attempt, lambda s: stretched(s, self.code), failed=self.errors.append
        )
        return AppletHost([applet])

    def access(self) -> AppletHost:
        """The same phone at a reader, with what it kept of the vehicle."""
        trusted = TrustedReader(group_id=self.kept.group_id, public_key=self.kept.public_key)
        self.credential = getattr(self, "credential", None) or DeviceCredential(
            profile=VEHICLE, vault=self.vault, key="key", readers={trusted.group_id: trusted}
        )
        return AppletHost([AccessApplet(self.credential, self.entropy)])


class Air:
    """A message link to a phone; ``tear`` cuts it before that message of the vehicle arrives."""

    def __init__(self, phone: Phone, *, tear: Kind | None = None, lost_answer=None) -> None:
        self.mtu = 2048
        self.caps = frozenset({Cap.BLE})
        self.phone = phone
        self.device = phone.attempt()
        self.first = to_sdu(self.device.begin())
        self.heard: list[bytes] = []
        self.tear, self.lost_answer = tear, lost_answer
        self._answers: deque[bytes] = deque()
        self._lost = False

    async def send(self, data: bytes) -> None:
        message = from_sdu(data)
        self._lost = self._lost or message[0] == self.tear
        if self._lost:
            raise LinkError(LinkReason.LOST, "torn")
        self.heard.append(message)
        try:
            answer = self.device.step(message)
            if isinstance(answer, Stretch):
                answer = self.device.stretched(stretched(answer, self.phone.code))
        except DkeyError as exc:
            self.phone.errors.append(exc)
            self._lost = True
            return
        self._lost = answer is None or answer[0] == self.lost_answer
        if not self._lost:
            self._answers.append(to_sdu(answer))

    async def recv(self) -> bytes:
        if self._answers:
            return self._answers.popleft()
        raise LinkError(LinkReason.LOST, "the phone hung up")

    async def present(self) -> bool:
        return not self._lost

    async def aclose(self) -> None:
        self._lost = True


class Cabin:
    """A parked vehicle with the ignition on, somebody in it, and a store that outlives it."""

    def __init__(self, folder, profile=DK2) -> None:
        self.folder, self.profile = folder / "vehicle", profile
        self.clock, self.entropy = FakeClock(1000.0), SeededEntropy("cabin")
        self.wall_offset_s = 1.7e9
        self.reports: list[tuple[str, dict]] = []
        self._open(create_vehicle)

    def _open(self, how) -> None:
        self.vehicle = how(
            self.folder,
            entropy=self.entropy,
            clock=self.clock,
            wall_clock=lambda: self.wall_offset_s + self.clock.now_s,
        )
        self.vehicle.body.ignition_on = True
        self.desk = OwnerDesk(
            self.vehicle,
            profile=self.profile,
            stretch=stretched,
            report=lambda event, /, **fields: self.reports.append((event, fields)),
        )
        self.vehicle.owner_desk = self.desk

    def restart(self, *, off_s: float = 0.0) -> None:
        self.vehicle.close()
        self.clock.now_s = 5.0
        self.wall_offset_s += 1000.0 + off_s
        self._open(open_vehicle)

    async def code(self) -> Secret:
        return parse_code((await self.desk.open_window()).qr)

    async def phone(self, **how) -> Phone:
        return Phone(self.entropy, await self.code(), **how)

    def guesser(self) -> Phone:
        shown = self.desk.shown
        right = b"" if shown is None else parse_code(shown.code).reveal()
        return Phone(self.entropy, Secret(b"00000000" if right != b"00000000" else b"00000001"))

    async def pad(self, responder):
        self.clock.advance(2.0)
        link = loopback(responder)
        try:
            return await self.vehicle.tap(Position.CONSOLE_PAD, link)
        finally:
            await link.aclose()
            self.vehicle.pad_cleared()

    async def handle(self, responder):
        self.clock.advance(2.0)
        return await self.vehicle.tap(Position.DOOR_HANDLE, loopback(responder))

    async def air(self, phone, **how):
        self.link = Air(phone, **how)
        assert self.desk.begins(self.link.first)
        return await self.desk.serve(self.link, self.link.first)

    @property
    def tries(self) -> int:
        return self.vehicle.store.pairing_codes()[-1].tries

    @property
    def owners(self):
        return [
            each
            for each in self.vehicle.store.credentials()
            if each.role is Role.OWNER and each.state is not CredentialState.REVOKED
        ]

    def kept(self):
        """All that a refusal or a torn attempt must leave as it was."""
        store = self.vehicle.store
        return store.credentials(), store.cards(), store.ownership(), self.vehicle.body.signals()


@pytest.fixture
def cabin(tmp_path):
    made = Cabin(tmp_path)
    yield made
    made.vehicle.close()


async def refused_window(cabin: Cabin) -> PolicyRefusal:
    with pytest.raises(PolicyRefusal) as caught:
        await cabin.desk.open_window()
    return caught.value


# --- pairing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["pad", "air"])
async def test_a_phone_pairs_and_counts_after_its_first_standard_transaction(cabin, transport):
    phone = await cabin.phone()
    outcome = await (cabin.pad(phone.pairing()) if transport == "pad" else cabin.air(phone))
    assert outcome.code is None
    (owner,) = cabin.owners
    assert owner.first_use
    assert outcome.credential_id == owner.credential_id == phone.kept.key_name
    assert phone.kept.features == set(Feature)
    assert phone.kept.resolving_key == cabin.desk.resolving_key
    assert phone.kept.owner_epoch == cabin.desk.owner_epoch == 1
    assert cabin.desk.window.state is OwnerState.PAIRED

    first = await cabin.handle(phone.access())
    assert (first.action, first.flow) == (Action.UNLOCK, "standard")
    assert not cabin.owners[0].first_use
    second = await cabin.handle(phone.access())
    assert second.flow == "fast"
    cabin.desk.tick()
    assert cabin.desk.window.state is OwnerState.CLOSED
    assert (await refused_window(cabin)).code is Code.ALREADY_LINKED


async def test_the_paired_phone_starts_the_vehicle_from_the_pad(cabin):
    phone = await cabin.phone()
    await cabin.pad(phone.pairing())
    outcome = await cabin.pad(phone.access())
    assert outcome.action is Action.AUTHORISE_START
    assert cabin.vehicle.press_start().granted


async def test_a_linked_vehicle_tells_a_second_phone_so_over_the_air(cabin):
    first = await cabin.phone()
    await cabin.air(first)
    await cabin.handle(first.access())
    second = Phone(cabin.entropy, first.code)
    outcome = await cabin.air(second)
    assert outcome.code is Code.ALREADY_LINKED
    assert second.errors[0].code is Code.ALREADY_LINKED


async def test_a_touch_only_vehicle_gives_a_reduced_set_and_says_why(tmp_path):
    cabin = Cabin(tmp_path, DK2_TOUCH)
    phone = await cabin.phone()
    await cabin.air(phone)
    assert phone.kept.features == {Feature.SHARING, Feature.TOUCH_LOCK, Feature.TOUCH_START}
    cabin.vehicle.close()


async def test_a_laptop_gets_remote_control_and_the_vehicle_reports_what_is_missing(cabin):
    laptop = Capabilities(nfc=False, ble=True, uwb=False, os="linux 6")
    phone = await cabin.phone(capabilities=laptop)
    await cabin.air(phone)
    assert phone.kept.features == {Feature.SHARING, Feature.REMOTE}
    event, fields = cabin.reports[-1]
    assert event == "paired"
    assert fields["missing"]["TOUCH_LOCK"] == "the device has no NFC"


@pytest.mark.parametrize("transport", ["pad", "air"])
async def test_an_unsupported_phone_is_refused_with_the_reason_and_nothing_is_kept(
    cabin, transport
):
    useless = Capabilities(nfc=False, ble=False, uwb=True, os="android 14")
    phone = await cabin.phone(capabilities=useless)
    before = cabin.kept()
    outcome = await (cabin.pad(phone.pairing()) if transport == "pad" else cabin.air(phone))
    assert outcome.code is Code.DEVICE_UNSUPPORTED
    assert phone.errors[0].code is Code.DEVICE_UNSUPPORTED
    assert "no NFC" in str(phone.errors[0])
    assert cabin.kept() == before


async def test_a_device_without_the_application_costs_no_try(cabin):
    await cabin.code()
    outcome = await cabin.pad(Card(CardProvenance.PURCHASED, cabin.entropy))
    assert outcome.code is Code.DEVICE_UNSUPPORTED
    assert cabin.tries == 0
    assert cabin.desk.window.state is OwnerState.OPEN


# --- wrong codes -------------------------------------------------------------------------------


async def test_the_third_wrong_code_locks_it_out_over_both_transports_and_a_restart(cabin):
    phone = await cabin.phone()
    before = cabin.kept()
    assert (await cabin.pad(cabin.guesser().pairing())).code is Code.NOT_AUTHORISED
    await cabin.air(cabin.guesser())
    cabin.restart()
    assert cabin.tries == 2
    assert cabin.desk.window.state is OwnerState.OPEN
    assert (await cabin.air(cabin.guesser())).code is Code.CODE_LOCKED_OUT
    cabin.restart(off_s=10 * CODE_TIMEOUT_S)
    outcome = await cabin.air(phone)
    assert outcome.code is Code.CODE_LOCKED_OUT
    assert phone.errors[0].code is Code.CODE_LOCKED_OUT
    assert cabin.kept() == before
    fresh = await cabin.phone()
    assert (await cabin.air(fresh)).code is None


@pytest.mark.parametrize("when", [Kind.PROOF, Kind.GRANT])
async def test_a_try_is_on_the_disk_before_its_answer_leaves(cabin, when):
    phone = await cabin.phone()
    await cabin.air(phone, tear=when)
    cabin.restart()
    assert cabin.tries == 1


async def test_the_right_code_pairs_at_the_third_try(cabin):
    phone = await cabin.phone()
    for _ in range(2):
        await cabin.air(cabin.guesser())
    assert (await cabin.air(phone)).code is None
    assert cabin.tries == 3


async def test_a_wrong_code_is_answered_as_any_other_failure(cabin):
    phone = await cabin.phone()
    link = Air(phone)
    link.device.step = lambda message: b"\xa4" + bytes(40)
    await cabin.desk.serve(link, link.first)
    assert link.heard[-1] == b"\xaf"


async def test_a_code_that_nobody_enters_times_out(cabin):
    phone = await cabin.phone()
    cabin.clock.advance(CODE_TIMEOUT_S + 1)
    outcome = await cabin.air(phone)
    assert outcome.code is Code.CODE_TIMEOUT
    assert phone.errors[0].code is Code.CODE_TIMEOUT
    assert cabin.desk.shown is None


async def test_a_restart_does_not_give_the_code_more_time(cabin):
    phone = await cabin.phone()
    cabin.restart(off_s=CODE_TIMEOUT_S - 10)
    assert cabin.desk.shown is not None
    cabin.clock.advance(11)
    assert (await cabin.air(phone)).code is Code.CODE_TIMEOUT


async def test_power_cycles_give_no_more_codes_in_an_hour(cabin):
    for _ in range(4):
        await cabin.code()
        cabin.restart()
    found = await refused_window(cabin)
    assert found.code is Code.TOO_SOON
    assert 0 < found.remaining_s <= 3600
    cabin.clock.advance(3600)
    assert await cabin.desk.open_window()


async def test_an_old_code_is_dead_once_a_new_one_is_shown(cabin):
    old = await cabin.phone()
    await cabin.code()
    assert (await cabin.air(old)).code is Code.NOT_AUTHORISED
    assert cabin.owners == []


# --- torn --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tear", [Kind.OFFER, Kind.PROOF, Kind.GRANT])
@pytest.mark.parametrize("lost_answer", [False, True])
async def test_a_phone_torn_away_before_the_end_changes_nothing_and_pairs_again(
    cabin, tear, lost_answer
):
    phone = await cabin.phone()
    before = cabin.kept()
    after = {Kind.OFFER: Kind.SHARE, Kind.PROOF: Kind.CONFIRM, Kind.GRANT: Kind.ACCEPT}[tear]
    how = {"lost_answer": after} if lost_answer else {"tear": tear}
    assert (await cabin.air(phone, **how)).code is not None
    assert cabin.kept() == before
    assert cabin.tries == (0 if tear is Kind.OFFER else 1)
    assert (await cabin.air(phone)).code is None
    assert (await cabin.handle(phone.access())).action is Action.UNLOCK


async def test_a_phone_torn_away_before_it_learned_of_its_luck_is_paired_all_the_same(cabin):
    phone = await cabin.phone()
    assert (await cabin.air(phone, tear=Kind.DONE)).code is None
    assert (await cabin.air(phone)).code is None
    assert [each.credential_id for each in cabin.owners] == [phone.kept.key_name]
    assert (await cabin.handle(phone.access())).action is Action.UNLOCK


async def test_the_first_transaction_alone_also_resolves_the_doubt(cabin):
    phone = await cabin.phone()
    await cabin.air(phone, tear=Kind.DONE)
    cabin.restart()
    assert (await cabin.pad(phone.access())).action is Action.AUTHORISE_START


async def test_another_phone_cannot_take_the_code_of_one_that_paired(cabin):
    phone = await cabin.phone()
    await cabin.air(phone)
    thief = Phone(cabin.entropy, phone.code)
    assert (await cabin.air(thief)).code is Code.ALREADY_LINKED
    assert [each.public_key for each in cabin.owners] == [phone.vault.public("key").point]


async def test_a_phone_that_never_came_back_makes_place_for_the_next_code(cabin):
    lost = await cabin.phone()
    await cabin.air(lost)
    phone = await cabin.phone()
    assert (await cabin.air(phone)).code is None
    assert [each.credential_id for each in cabin.owners] == [phone.kept.key_name]
    assert (await cabin.handle(lost.access())).code is Code.KEY_REVOKED
    assert cabin.owners[0].first_use


# --- the vehicle's state -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "value", "code"),
    [
        ("ignition_on", False, Code.IGNITION_OFF),
        ("speed_kmh", 5.0, Code.DRIVING),
        ("service_mode", True, Code.SERVICE_MODE),
        ("valet", True, Code.VALET),
    ],
)
async def test_the_vehicle_must_permit_it_from_the_window_to_the_enrolment(
    cabin, signal, value, code
):
    phone = await cabin.phone()
    before = getattr(cabin.vehicle.body, signal)
    setattr(cabin.vehicle.body, signal, value)
    assert (await refused_window(cabin)).code is code
    assert (await cabin.air(phone)).code is code
    assert cabin.tries == 0
    setattr(cabin.vehicle.body, signal, before)

    def keep(paired) -> None:
        setattr(cabin.vehicle.body, signal, value)

    phone.keep = keep
    assert (await cabin.air(phone)).code is code
    assert cabin.owners == []


async def test_two_phones_at_once_have_one_attempt(cabin):
    phone = await cabin.phone()
    other = Phone(cabin.entropy, phone.code)
    outcomes = []

    class Meanwhile(Air):
        async def send(self, data: bytes) -> None:
            if not outcomes:
                outcomes.append(await cabin.desk.serve(late, late.first))
            await super().send(data)

    late = Air(other)
    first = Meanwhile(phone)
    assert (await cabin.desk.serve(first, first.first)).code is None
    assert outcomes[0].code is Code.NOT_AUTHORISED
    assert cabin.tries == 1


async def test_a_phone_that_dawdles_is_put_out_by_the_next(cabin):
    phone = await cabin.phone()
    outcomes = []

    class Dawdler(Air):
        async def send(self, data: bytes) -> None:
            if not outcomes:
                cabin.clock.advance(ATTEMPT_TIMEOUT_S + 1)
                outcomes.append(await cabin.air(phone))
            await super().send(data)

    dawdler = Dawdler(Phone(cabin.entropy, phone.code))
    late = await cabin.desk.serve(dawdler, dawdler.first)
    assert outcomes[0].code is None
    assert late.code is Code.NOT_AUTHORISED
    assert cabin.tries == 1


async def test_a_store_that_cannot_be_written_gives_no_answer_and_frees_the_window(cabin):
    phone = await cabin.phone()

    class Full(Air):
        async def send(self, data: bytes) -> None:
            await super().send(data)
            if self.heard[-1][0] == Kind.OFFER:
                cabin.vehicle.store.close()

    link = Full(phone)
    with pytest.raises(DkeyError):
        await cabin.desk.serve(link, link.first)
    assert [Kind(each[0]) for each in link.heard] == [Kind.OFFER]
    assert cabin.desk.window.state is OwnerState.OPEN


async def test_a_cancelled_window_ends_the_attempt_in_it(cabin):
    phone = await cabin.phone()
    phone.keep = lambda paired: cabin.desk.cancel()
    assert (await cabin.air(phone)).code is Code.NOT_AUTHORISED
    assert cabin.owners == []
    assert cabin.desk.shown is None


# --- factory reset -----------------------------------------------------------------------------


async def test_a_factory_reset_erases_every_key_and_begins_a_new_epoch(cabin):
    phone = await cabin.phone()
    await cabin.air(phone)
    await cabin.handle(phone.access())
    guest = Phone(cabin.entropy, phone.code)
    cabin.vehicle.enrol(
        "guest", guest.vault.public("key"), Role.ASSOCIATE, Permission.ENTRY_AND_START
    )
    old_key = cabin.desk.resolving_key
    assert cabin.desk.factory_reset() == 2
    cabin.restart()
    assert cabin.vehicle.store.credentials() == ()
    assert cabin.vehicle.store.cards() == ()
    assert cabin.desk.owner_epoch == 2
    assert cabin.desk.resolving_key != old_key
    assert (await cabin.handle(phone.access())).action is None
    fresh = await cabin.phone()
    assert (await cabin.air(fresh)).code is None
    assert fresh.kept.owner_epoch == 2


async def test_a_factory_reset_ends_a_running_attempt_and_resets_the_codes(cabin):
    for _ in range(4):
        await cabin.code()
    last = Phone(cabin.entropy, parse_code(cabin.desk.shown.code))
    last.keep = lambda paired: cabin.desk.factory_reset()
    assert (await cabin.air(last)).code is Code.NOT_AUTHORISED
    assert cabin.owners == []
    assert await cabin.desk.open_window()


async def test_an_owner_who_was_withdrawn_makes_place_for_the_next_in_a_new_epoch(cabin):
    former = await cabin.phone()
    await cabin.air(former)
    await cabin.handle(former.access())
    (owner,) = cabin.vehicle.store.credentials()
    cabin.vehicle.set_state(owner.credential_id, CredentialState.REVOKED)
    fresh = await cabin.phone()
    assert (await cabin.air(fresh)).code is None
    assert fresh.kept.owner_epoch == 2
    cabin.restart()
    assert (await cabin.handle(fresh.access())).code is None
    assert cabin.vehicle.keys.book.admissions.owner_x == fresh.vault.public("key").x
    assert (await cabin.handle(former.access())).code is Code.KEY_REVOKED


async def test_no_factory_reset_while_driving(cabin):
    cabin.vehicle.body.speed_kmh = 30.0
    before = cabin.kept()
    with pytest.raises(PolicyRefusal) as caught:
        cabin.desk.factory_reset()
    assert caught.value.code is Code.DRIVING
    assert cabin.kept() == before


async def test_the_log_tells_the_story_and_no_code(cabin):
    phone = await cabin.phone()
    await cabin.air(cabin.guesser())
    await cabin.air(phone)
    await cabin.handle(phone.access())
    events = cabin.vehicle.store.events()
    kinds = [each.kind for each in events]
    assert [k for k in kinds if k.startswith(("PAIRING", "OWNER"))] == [
        "PAIRING_CODE",
        "PAIRING_TRY",
        "PAIRING_TRY",
        "OWNER_PAIRED",
    ]
    assert phone.code.reveal().decode() not in "".join(each.text for each in events)
