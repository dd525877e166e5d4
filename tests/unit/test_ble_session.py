"""BLE sessions: the flow, its round trips, encryption, times, refusals, and ranging turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from dkey.access.ble_applet import BleApplet
from dkey.access.ble_device import DeviceBleSession
from dkey.access.ble_events import (
    Authenticated,
    CommandRequested,
    Ended,
    EndReason,
    Established,
    Exchanged,
    RangingReceived,
    RangingUnavailable,
    StatusReported,
    ThirdPartyReceived,
    VerdictReceived,
)
from dkey.access.ble_reader import ReaderBleSession
from dkey.access.ble_rules import (
    DEVICE_TRANSITIONS,
    HANDSHAKE_S,
    READER_TRANSITIONS,
    RESPONSE_TIMEOUT_S,
    BleState,
)
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.exchange import ExchangeRequest, Read, ReaderStatus
from dkey.access.mailbox import Mailbox
from dkey.access.messages import ControlFlow, Ins, command
from dkey.access.profile import ALIRO, VEHICLE, Interface, Profile
from dkey.access.reader import AccessReader
from dkey.access.schedule import ble_keys
from dkey.access.select import select_command
from dkey.codec.apdu import Command
from dkey.codec.ble import (
    Message,
    MessageType,
    NotificationId,
    RangingKind,
    RkeAction,
    StatusSource,
    UwbId,
    split_sdu,
)
from dkey.codec.ble_contents import (
    ApRequest,
    Busy,
    Content,
    GeneralError,
    Opaque,
    PassThrough,
    Ranging,
    ReaderDescriptor,
    RkeRequest,
    decode,
)
from dkey.crypto.channel import SecureChannel
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import EntropyError, LocalFault, StoreError, WireError
from dkey.testing import ScriptedEntropy, SeededEntropy

if TYPE_CHECKING:
    from dkey.access.ble_events import BleEvent
    from dkey.access.ble_session import BleSession
    from dkey.crypto.entropy import Entropy

E = TypeVar("E")
READER, CREDENTIAL = (PrivateKey.from_scalar(bytes(31) + bytes((n,))) for n in (2, 3))
GROUP, SUB = bytes(range(16)), bytes(range(16, 32))
KPERSISTENT = Secret(b"\x4b" * 32)
VECTORS = Path(__file__).resolve().parents[3] / "shared/vectors/aliro_generated.json"


class FullStore:
    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        raise StoreError("the store is full")

    def save_mailbox(self, data: bytes) -> None:
        raise StoreError("the store is full")


class Pair:
    """A reader's and a device's session, what passed, and what they reported."""

    def __init__(
        self,
        profile: Profile = VEHICLE,
        *,
        remote_only: bool = True,
        ranging: bool = True,
        stored: bool = False,
        enrolled: bool = True,
        trusted: bool = True,
        flow: Flow = Flow.AUTO,
        mailbox: Mailbox | None = None,
        store: FullStore | None = None,
        reader_entropy: Entropy | None = None,
        decide: bool = True,
        user_authenticated: bool = True,
        policy: int = 1,
    ) -> None:
        self.credential = DeviceCredential(
            profile=profile,
            vault=MemoryVault(c=CREDENTIAL),
            key="c",
            readers={GROUP: TrustedReader(group_id=GROUP, public_key=READER.public)}
            if trusted
            else {},
            kpersistent={(GROUP, SUB): KPERSISTENT} if stored else {},
            mailbox=mailbox,
        )
        self.applet = BleApplet(
            self.credential,
            SeededEntropy("device"),
            store=store,
            user_authenticated=user_authenticated,
        )
        known = EnrolledCredential(
            name="phone",
            public_key=CREDENTIAL.public,
            kpersistent=KPERSISTENT if stored else None,
        )
        self.known = known
        self.access = AccessReader(
            ReaderIdentity(
                profile=profile,
                group_id=GROUP,
                sub_id=SUB,
                vault=MemoryVault(r=READER),
                key="r",
            ),
            MemoryDirectory([known] if enrolled else []),
            reader_entropy or SeededEntropy("reader"),
            interface=Interface.BLE,
            policy=policy,
        )
        self.reader = ReaderBleSession(self.access, ranging=ranging, flow=flow)
        self.device = DeviceBleSession(self.applet, remote_only=remote_only)
        self.decide = decide
        self.sent: list[tuple[str, bytes]] = []
        self.reader_events: list[BleEvent] = []
        self.device_events: list[BleEvent] = []

    def start(self, now: float = 0.0) -> Pair:
        self.reader.start(now)
        self.device.start(now)
        return self

    def pump(self, now: float = 0.0) -> Pair:
        while True:
            up, down = self.device.outbox(), self.reader.outbox()
            if not up and not down:
                return self
            for sdu in up:
                self.sent.append(("device", sdu))
                self.reader_got(self.reader.receive(sdu, now), now)
            for sdu in down:
                self.sent.append(("reader", sdu))
                self.device_events += self.device.receive(sdu, now)

    def reader_got(self, events: tuple[BleEvent, ...], now: float) -> None:
        self.reader_events += events
        for event in events:
            if isinstance(event, Authenticated) and self.decide:
                if event.transaction.credential is None:
                    more = self.reader.refuse(ReaderStatus.KEY_NOT_FOUND, now)
                else:
                    more = self.reader.accept(ReaderStatus.SECURE, now)
                self.reader_events += more

    def asked(self) -> CommandRequested:
        event = self.reader_events[-1]
        assert isinstance(event, CommandRequested)
        return event

    @property
    def names(self) -> list[str]:
        """Who sent what, access commands by their instruction."""
        found = []
        for side, sdu in self.sent:
            for message in split_sdu(sdu):
                name = message.name
                if name == "AP RQ":
                    name = Ins(message.payload[1]).name
                found.append(f"{side} {name}")
        return found


def established(profile: Profile = VEHICLE, *, remote_only: bool = True) -> Pair:
    return Pair(profile, remote_only=remote_only).start().pump()


def first_of(events: list[BleEvent], kind: type[E]) -> E:
    return next(event for event in events if isinstance(event, kind))


def fed(session: BleSession, message: Message, now: float = 0.0) -> tuple[BleEvent, ...]:
    return session.receive(message.to_bytes(), now)


def forged(pair: Pair, content: Content, *, from_reader: bool) -> tuple[BleEvent, ...]:
    """Feed a message that is rightly encrypted, although the sending session would not send it."""
    transaction = first_of(pair.device_events, Established).transaction
    assert transaction is not None
    keys = ble_keys(transaction.keys.ble, b"\x01\x00", b"\x01\x00")
    channel = SecureChannel(*keys, is_reader=from_reader)
    counters = (pair.reader if from_reader else pair.device).counters
    assert counters is not None
    for _ in range(1, counters[0]):
        channel.seal(b"x")
    plain = content.to_message()
    sealed = channel.seal(plain.payload, plain.header(len(plain.payload)))
    receiver: BleSession = pair.device if from_reader else pair.reader
    return fed(receiver, Message(plain.type, plain.id, sealed))


def ended(events: tuple[BleEvent, ...] | list[BleEvent]) -> EndReason:
    event = events[-1]
    assert isinstance(event, Ended)
    return event.reason


# --- the flow ----------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [ALIRO, VEHICLE])
def test_a_standard_transaction_takes_the_fewest_messages(profile: Profile) -> None:
    assert established(profile).names == [
        "device NOTIFICATION INITIATE_AP_RKE",
        "reader AUTH0",
        "device AP RS",
        "reader AUTH1",
        "device AP RS",
        "reader NOTIFICATION AP_COMPLETED",
    ]


def test_with_ranging_one_exchange_releases_the_secret() -> None:
    pair = Pair(remote_only=False).start().pump()
    assert [name for name in pair.names if name.startswith("reader")] == [
        "reader AUTH0",
        "reader AUTH1",
        "reader EXCHANGE",
        "reader NOTIFICATION AP_COMPLETED",
    ]


def test_a_fast_transaction_has_no_auth1() -> None:
    pair = Pair(remote_only=False, stored=True).start().pump()
    assert [name for name in pair.names if name.startswith("reader")] == [
        "reader AUTH0",
        "reader EXCHANGE",
        "reader NOTIFICATION AP_COMPLETED",
    ]
    assert first_of(pair.reader_events, Authenticated).transaction.flow is Flow.FAST


def test_without_ranging_the_transaction_is_standard_although_a_key_is_stored() -> None:
    pair = Pair(remote_only=True, stored=True).start().pump()
    assert first_of(pair.reader_events, Authenticated).transaction.flow is Flow.STANDARD


def test_both_sides_hold_the_same_ranging_secret() -> None:
    pair = Pair(remote_only=False).start().pump()
    ours, theirs = (
        first_of(events, Established).ursk for events in (pair.reader_events, pair.device_events)
    )
    assert ours is not None
    assert ours == theirs


def test_without_ranging_nobody_gets_a_ranging_secret() -> None:
    pair = established()
    assert first_of(pair.reader_events, Established).ursk is None
    assert first_of(pair.device_events, Established).ursk is None


def test_a_device_that_wanted_ranging_says_that_it_has_no_secret() -> None:
    pair = Pair(remote_only=False, ranging=False).start().pump()
    assert isinstance(pair.reader_events[-1], RangingUnavailable)
    assert not pair.reader.done


def test_the_device_learns_the_reader_and_its_state() -> None:
    event = first_of(established().device_events, Established)
    assert event.transaction is not None
    assert (event.transaction.group_id, event.transaction.sub_id) == (GROUP, SUB)
    assert (event.state, event.transaction.fast) == (0x00, False)


def test_ap_completed_makes_the_device_keep_kpersistent_without_an_exchange() -> None:
    pair = established()
    kept = first_of(pair.reader_events, Authenticated).transaction.kpersistent
    assert kept is not None
    assert pair.credential.kpersistent[GROUP, SUB] == kept


def test_before_ap_completed_the_device_keeps_nothing() -> None:
    pair = Pair(decide=False).start().pump()
    assert pair.reader.state is BleState.DECIDING
    assert not pair.credential.kpersistent


def test_ap_completed_is_the_first_encrypted_message_of_the_reader() -> None:
    pair = established()
    assert len(pair.sent[-1][1]) == 4 + 4 + 16
    assert (pair.reader.counters, pair.device.counters) == ((2, 1), (1, 2))


def test_a_store_that_fails_ends_the_session_on_both_sides() -> None:
    pair = Pair(store=FullStore()).start().pump()
    assert ended(pair.device_events) is EndReason.FAILED
    assert ended(pair.reader_events) is EndReason.PEER


def test_the_owner_may_exchange_before_the_decision() -> None:
    mailbox = Mailbox(b"hello", readable=True)
    pair = Pair(mailbox=mailbox, decide=False).start().pump()
    pair.reader.exchange(ExchangeRequest(mailbox=(Read(0, 5),)), 0.0)
    pair.pump()
    assert pair.reader_events[-1] == Exchanged(reads=(b"hello",))
    pair.reader_events += pair.reader.accept(ReaderStatus.SECURE, 0.0)
    assert pair.pump().device.state is BleState.ESTABLISHED


def test_the_public_vector_gives_the_same_ble_keys() -> None:
    if not VECTORS.is_file():
        pytest.skip(f"{VECTORS} is not here")
    entries = json.loads(VECTORS.read_text(encoding="utf-8"))["vectors"]
    entry = next(each for each in entries if each["id"] == "ble-1")
    given = {name: bytes.fromhex(text) for name, text in entry["inputs"].items()}
    key = PrivateKey.from_scalar(given["credential_private_key"])
    reader_key = PrivateKey.from_scalar(given["reader_private_key"])
    group, sub = given["reader_identifier"][:16], given["reader_identifier"][16:]
    credential = DeviceCredential(
        profile=ALIRO,
        vault=MemoryVault(c=key),
        key="c",
        readers={group: TrustedReader(group_id=group, public_key=reader_key.public)},
    )
    scripted = ScriptedEntropy(
        [bytes(31) + b"\x09", given["device_ephemeral_private_key"]], [bytes(32)]
    )
    device = DeviceBleSession(BleApplet(credential, scripted))
    reader = ReaderBleSession(
        AccessReader(
            ReaderIdentity(
                profile=ALIRO, group_id=group, sub_id=sub, vault=MemoryVault(r=reader_key), key="r"
            ),
            MemoryDirectory([EnrolledCredential(name="c", public_key=key.public)]),
            ScriptedEntropy(
                [given["reader_ephemeral_private_key"]], [given["transaction_identifier"]]
            ),
            interface=Interface.BLE,
        )
    )
    reader.start(0.0)
    device.start(0.0)
    (initiate,) = device.outbox()
    assert initiate.hex() == "0205000c000a" + entry["inputs"]["a5_tlv"]
    reader.receive(initiate, 0.0)
    (auth0,) = reader.outbox()
    assert auth0[4:].hex() == entry["auth0_command"]
    device.receive(auth0, 0.0)
    (answer,) = device.outbox()
    assert answer[4:].hex() == entry["auth0_response"]
    reader.receive(answer, 0.0)
    device.receive(reader.outbox()[0], 0.0)
    events = reader.receive(device.outbox()[0], 0.0)
    transaction = first_of([*events], Authenticated).transaction
    keys = ble_keys(transaction.keys.ble, b"\x01\x00", b"\x01\x00")
    assert [each.reveal().hex() for each in keys] == [*entry["ble_keys"].values()]
    reader.accept(ReaderStatus.SECURE, 0.0)
    _release, *_ = reader.outbox()
    device.receive(_release, 0.0)
    reader.receive(device.outbox()[0], 0.0)
    (completed,) = reader.outbox()
    channel = SecureChannel(*keys, is_reader=False)
    assert channel.open(completed[4:], bytes.fromhex("02030004")).hex() == "00022000"
    assert isinstance(device.receive(completed, 0.0)[-1], Established)


# --- refusals and failures ---------------------------------------------------------------------


def test_a_key_that_is_not_enrolled_is_refused_by_its_owner() -> None:
    pair = Pair(enrolled=False).start().pump()
    assert pair.names[-3:] == ["reader EXCHANGE", "device AP RS", "reader NOTIFICATION EVENT"]
    assert ended(pair.reader_events) is EndReason.REFUSED
    assert ended(pair.device_events) is EndReason.PEER
    assert pair.applet.events[-1].status == ReaderStatus.KEY_NOT_FOUND


def test_a_key_that_is_not_enrolled_cannot_be_accepted() -> None:
    pair = Pair(enrolled=False, decide=False).start().pump()
    with pytest.raises(LocalFault):
        pair.reader.accept(ReaderStatus.SECURE, 0.0)


def test_a_key_that_was_enrolled_meanwhile_can_be_accepted() -> None:
    pair = Pair(enrolled=False, decide=False).start().pump()
    pair.reader.accept(ReaderStatus.SECURE, 0.0, credential=pair.known)
    assert pair.pump().device.state is BleState.ESTABLISHED


def test_a_failure_status_is_no_acceptance() -> None:
    pair = Pair(decide=False).start().pump()
    with pytest.raises(LocalFault):
        pair.reader.accept(ReaderStatus.ACCESS_RIGHTS, 0.0)


def test_an_untrusted_reader_gets_an_error_status_and_says_one_error() -> None:
    pair = Pair(trusted=False).start().pump()
    assert ended(pair.reader_events) is EndReason.VIOLATION
    assert ended(pair.device_events) is EndReason.PEER
    assert pair.names[-2:] == ["device AP RS", "reader NOTIFICATION EVENT"]


def test_policy_3_without_the_user_is_refused() -> None:
    pair = Pair(policy=3, user_authenticated=False).start().pump()
    assert pair.reader.done
    assert pair.device.done


def test_no_common_version_is_one_error_and_no_control_flow() -> None:
    pair = Pair()
    pair.reader.start(0.0)
    pair.reader.receive(bytes.fromhex("0206000c000aa508800200005c020900"), 0.0)
    (error,) = pair.reader.outbox()
    assert error.hex() == "02000003010100"
    assert pair.reader.done


def test_a_stuck_random_source_ends_the_session() -> None:
    entropy = SeededEntropy("x")
    same = entropy.ephemeral()

    class Stuck:
        def ephemeral(self) -> PrivateKey:
            return same

        def random(self, size: int) -> bytes:
            return bytes(size)

    pair = Pair(reader_entropy=Stuck()).start().pump()
    again = Pair(reader_entropy=Stuck())
    again.reader = ReaderBleSession(pair.access)
    again.start().pump()
    assert ended(again.reader_events) is EndReason.FAILED
    assert isinstance(again.reader.error, EntropyError)


def test_an_error_is_never_answered_with_an_error() -> None:
    pair = Pair().start()
    pair.reader.receive(pair.device.outbox()[0], 0.0)
    pair.reader.outbox()
    assert ended(fed(pair.reader, GeneralError().to_message())) is EndReason.PEER
    assert pair.reader.outbox() == []


@pytest.mark.parametrize(
    "content", [Busy(), ReaderDescriptor(descriptor=bytes.fromhex("B503800101"))]
)
def test_in_clear_an_event_may_only_be_an_error(content: Busy | ReaderDescriptor) -> None:
    pair = Pair().start()
    assert ended(fed(pair.device, content.to_message())) is EndReason.VIOLATION


@pytest.mark.parametrize("side", ["reader", "device"])
def test_one_error_goes_out_for_malformed_bytes_and_then_nothing(side: str) -> None:
    pair = Pair().start()
    session: BleSession = getattr(pair, side)
    session.outbox()
    assert ended(session.receive(b"\x02", 0.0)) is EndReason.VIOLATION
    assert [sdu.hex() for sdu in session.outbox()] == ["02000003010100"]
    assert session.receive(b"\x02", 0.0) == ()
    assert session.outbox() == []
    assert session.done
    assert session.deadline is None


CLEAR = {
    "AP RQ": bytes.fromhex("0000000180"),
    "AP RS": bytes.fromhex("000100029000"),
    "AP Completed": bytes.fromhex("0203000400022000"),
    "RKE Request": bytes.fromhex("02040003000100"),
    "Status Changed": bytes.fromhex("0202000400020401"),
    "Ranging": bytes.fromhex("020100020000"),
    "M1": bytes.fromhex("01000003000101"),
    "Time Sync": bytes.fromhex("03000003000101"),
    "pass-through": bytes.fromhex("0400000302646b"),
}


@pytest.mark.parametrize("name", [*CLEAR])
def test_in_clear_the_reader_takes_only_what_its_state_allows(name: str) -> None:
    pair = Pair().start()
    assert ended(pair.reader.receive(CLEAR[name], 0.0)) is EndReason.VIOLATION


@pytest.mark.parametrize("name", [*CLEAR])
def test_in_clear_the_device_takes_only_what_its_state_allows(name: str) -> None:
    pair = Pair().start()
    assert ended(pair.device.receive(CLEAR[name], 0.0)) is EndReason.VIOLATION


@pytest.mark.parametrize("name", [*CLEAR])
@pytest.mark.parametrize("side", ["reader", "device"])
def test_once_established_nothing_is_taken_in_clear(side: str, name: str) -> None:
    pair = established()
    session: BleSession = getattr(pair, side)
    assert ended(session.receive(CLEAR[name], 0.0)) is EndReason.VIOLATION
    (error,) = session.outbox()
    assert len(error) == 4 + 3 + 16


@pytest.mark.parametrize(
    "apdu",
    [
        select_command(VEHICLE.access_aid).to_bytes(),
        command(Ins.CONTROL_FLOW, ControlFlow().to_bytes()).to_bytes(),
        Command(0x00, 0xB0, 0, 0).to_bytes(),
    ],
)
def test_the_device_takes_no_command_that_ble_does_not_have(apdu: bytes) -> None:
    pair = Pair().start()
    assert ended(fed(pair.device, ApRequest(apdu=apdu).to_message())) is EndReason.VIOLATION


def test_a_second_first_message_is_refused() -> None:
    pair = Pair().start()
    (first,) = pair.device.outbox()
    pair.reader.receive(first, 0.0)
    assert ended(pair.reader.receive(first, 0.0)) is EndReason.VIOLATION


def test_a_changed_header_bit_of_an_encrypted_message_does_not_verify() -> None:
    pair = Pair(decide=False).start().pump()
    pair.reader.accept(ReaderStatus.SECURE, 0.0)
    (completed,) = pair.reader.outbox()
    changed = bytes((completed[0] | 0x40,)) + completed[1:]
    assert ended(pair.device.receive(changed, 0.0)) is EndReason.VIOLATION
    assert not pair.credential.kpersistent


def test_a_replayed_encrypted_message_ends_the_session() -> None:
    pair = established()
    pair.device.request(RkeAction.UNLOCK, 0.0)
    (request,) = pair.device.outbox()
    pair.reader.receive(request, 0.0)
    assert ended(pair.reader.receive(request, 0.0)) is EndReason.VIOLATION


def test_several_messages_may_come_in_one_sdu() -> None:
    pair = established(remote_only=False)
    for kind in (RangingKind.SETUP_LATER, RangingKind.SUSPENDED):
        pair.reader.send(Ranging(kind=kind), 0.0)
    events = pair.device.receive(b"".join(pair.reader.outbox()), 0.0)
    assert [type(event) for event in events] == [RangingReceived, RangingReceived]


def test_what_follows_a_fatal_message_in_an_sdu_is_not_read() -> None:
    pair = established()
    pair.device.request(RkeAction.UNLOCK, 0.0)
    (request,) = pair.device.outbox()
    events = pair.reader.receive(CLEAR["AP RS"] + request, 0.0)
    assert [type(event) for event in events] == [Ended]


def test_a_session_starts_once() -> None:
    pair = Pair().start()
    with pytest.raises(LocalFault):
        pair.device.start(0.0)


def test_closing_forgets_the_keys_and_says_nothing() -> None:
    pair = Pair().start()
    pair.reader.receive(pair.device.outbox()[0], 0.0)
    pair.device.receive(pair.reader.outbox()[0], 0.0)
    pair.device.outbox()
    assert ended(pair.device.close()) is EndReason.CLOSED
    assert pair.device.close() == ()
    assert pair.device.outbox() == []
    assert pair.applet.session_keys is None


def test_every_state_of_the_tables_is_reachable_from_new() -> None:
    for table in (READER_TRANSITIONS, DEVICE_TRANSITIONS):
        reached = {BleState.NEW}
        for _ in BleState:
            reached |= {to for (state, _), tos in table.items() if state in reached for to in tos}
        assert reached == {state for state, _ in table} | {BleState.DONE}


# --- times -------------------------------------------------------------------------------------


def test_the_device_waits_1500_ms_for_each_command() -> None:
    pair = Pair().start(10.0)
    assert pair.device.deadline == 10.0 + RESPONSE_TIMEOUT_S
    assert pair.device.tick(11.499) == ()
    assert ended(pair.device.tick(11.5)) is EndReason.TIMEOUT
    assert len(pair.device.outbox()) == 1  # the first message alone, no error after it


def test_the_reader_waits_1500_ms_for_each_answer() -> None:
    pair = Pair().start()
    pair.reader.receive(pair.device.outbox()[0], 2.0)
    assert pair.reader.deadline == 2.0 + RESPONSE_TIMEOUT_S


def test_an_answer_at_the_deadline_comes_too_late_without_a_tick() -> None:
    pair = Pair().start()
    pair.reader.receive(pair.device.outbox()[0], 0.0)
    pair.device.receive(pair.reader.outbox()[0], 0.0)
    assert ended(pair.reader.receive(pair.device.outbox()[0], 1.5)) is EndReason.TIMEOUT


def test_a_connection_that_never_speaks_is_ended() -> None:
    pair = Pair()
    pair.reader.start(0.0)
    assert pair.reader.deadline == HANDSHAKE_S
    assert ended(pair.reader.tick(HANDSHAKE_S)) is EndReason.TIMEOUT


def test_the_whole_handshake_has_a_limit_although_each_answer_comes_in_time() -> None:
    pair = Pair(mailbox=Mailbox(b"hello", readable=True), decide=False).start()
    now = 0.0
    pair.pump(now)
    while not pair.reader.done:
        now += 1.0
        pair.reader.exchange(ExchangeRequest(mailbox=(Read(0, 5),)), now)
        pair.pump(now)
    assert now == HANDSHAKE_S


def test_a_late_decision_ends_the_session_instead_of_letting_in() -> None:
    pair = Pair(decide=False).start().pump()
    assert ended(pair.reader.accept(ReaderStatus.SECURE, 1.5)) is EndReason.TIMEOUT
    assert pair.reader.outbox() == []


def test_an_established_session_waits_for_nothing() -> None:
    pair = established()
    assert (pair.reader.deadline, pair.device.deadline) == (None, None)


def test_busy_gives_a_command_its_time_again() -> None:
    pair = established()
    pair.device.request(RkeAction.LOCK, 0.0)
    pair.pump()
    for now in (1.4, 2.8, 4.2):
        pair.reader.busy(now)
        pair.pump(now)
    assert pair.device.deadline == 4.2 + RESPONSE_TIMEOUT_S
    assert pair.reader.deadline == 4.2 + RESPONSE_TIMEOUT_S


def test_a_command_without_a_verdict_ends_both_sides() -> None:
    pair = established()
    pair.device.request(RkeAction.LOCK, 0.0)
    pair.pump()
    request = pair.asked()
    assert ended(pair.device.tick(1.5)) is EndReason.TIMEOUT
    assert ended(pair.reader.answer(request, 1.5)) is EndReason.TIMEOUT


def test_a_status_report_touches_no_running_time() -> None:
    pair = established()
    pair.device.request(RkeAction.LOCK, 0.0)
    pair.pump()
    pair.reader.report(StatusSource.MANUAL, ReaderStatus.SECURE)
    pair.pump(1.0)
    assert pair.device.deadline == 1.5


# --- commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [*RkeAction])
def test_every_action_of_the_vehicle_profile_comes_through(action: RkeAction) -> None:
    pair = established()
    pair.device.request(action, 0.0)
    pair.pump()
    assert pair.asked().action is action


def test_a_verdict_tells_the_refusal_and_the_rest_of_the_time() -> None:
    pair = established()
    pair.device.request(RkeAction.REMOTE_START, 0.0)
    pair.pump()
    pair.reader.answer(pair.asked(), 0.0, code="TOO_SOON", remaining_s=12.5)
    pair.pump()
    assert pair.device_events[-1] == VerdictReceived(
        action=RkeAction.REMOTE_START, code="TOO_SOON", remaining_s=12.5
    )
    assert pair.device.deadline is None


def test_after_a_verdict_the_next_request_may_follow() -> None:
    pair = established()
    for action in (RkeAction.HORN_ON, RkeAction.HORN_OFF):
        pair.device.request(action, 0.0)
        pair.pump()
        pair.reader.answer(pair.asked(), 0.0)
        pair.pump()
    assert pair.device_events[-1] == VerdictReceived(
        action=RkeAction.HORN_OFF, code=None, remaining_s=None
    )


def test_the_device_keeps_to_one_request_at_a_time() -> None:
    pair = established()
    pair.device.request(RkeAction.LOCK, 0.0)
    with pytest.raises(LocalFault):
        pair.device.request(RkeAction.UNLOCK, 0.0)


def test_a_request_is_answered_once() -> None:
    pair = established()
    pair.device.request(RkeAction.LOCK, 0.0)
    pair.pump()
    request = pair.asked()
    pair.reader.answer(request, 0.0)
    with pytest.raises(LocalFault):
        pair.reader.answer(request, 0.0)


def test_the_aliro_profile_knows_lock_and_unlock_alone() -> None:
    pair = established(ALIRO)
    pair.device.request(RkeAction.UNLOCK, 0.0)
    pair.pump()
    assert pair.asked() == CommandRequested(action=RkeAction.UNLOCK, number=None)
    with pytest.raises(LocalFault):
        pair.device.request(RkeAction.HORN_ON, 0.0)


def test_an_aliro_reader_refuses_an_action_of_ours() -> None:
    pair = established(ALIRO)
    assert (
        ended(forged(pair, RkeRequest(action=RkeAction.HORN_ON), from_reader=False))
        is EndReason.VIOLATION
    )


def test_an_aliro_command_is_answered_by_a_status_report() -> None:
    pair = established(ALIRO)
    pair.device.request(RkeAction.UNLOCK, 0.0)
    pair.pump()
    assert pair.reader.answer(pair.asked(), 0.0) == ()
    pair.reader.report(StatusSource.THIS_DEVICE_BLE, ReaderStatus.UNSECURE)
    pair.pump()
    assert pair.device_events[-1] == StatusReported(source=6, state=1)


def test_aliro_takes_no_command_in_a_session_for_ranging() -> None:
    pair = established(ALIRO, remote_only=False)
    with pytest.raises(LocalFault):
        pair.device.request(RkeAction.LOCK, 0.0)
    assert (
        ended(forged(pair, RkeRequest(action=RkeAction.LOCK), from_reader=False))
        is EndReason.VIOLATION
    )


def test_the_vehicle_profile_takes_commands_in_a_session_for_ranging() -> None:
    pair = established(remote_only=False)
    pair.device.request(RkeAction.LOCK, 0.0)
    pair.pump()
    assert pair.asked().action is RkeAction.LOCK


def test_the_same_report_is_not_sent_twice() -> None:
    pair = established()
    for _ in range(3):
        pair.reader.report(StatusSource.MANUAL, ReaderStatus.UNSECURE)
    assert len(pair.reader.outbox()) == 1


def test_a_request_without_a_number_is_refused_in_the_vehicle_profile() -> None:
    pair = established()
    assert (
        ended(forged(pair, RkeRequest(action=RkeAction.LOCK), from_reader=False))
        is EndReason.VIOLATION
    )


def test_a_verdict_that_nobody_asked_for_ends_the_session() -> None:
    pair = established()
    pair.reader.send(
        PassThrough(oui=bytes.fromhex("02646B"), data=bytes.fromhex("0001010101000200")), 0.0
    )
    pair.pump()
    assert ended(pair.device_events) is EndReason.VIOLATION


def test_messages_of_others_pass_through() -> None:
    pair = established()
    pair.device.send(PassThrough(oui=b"abc", data=b"x"), 0.0)
    pair.pump()
    assert pair.reader_events[-1] == ThirdPartyReceived(oui=b"abc", data=b"x")


def test_nothing_is_requested_before_the_session_is_established() -> None:
    with pytest.raises(LocalFault):
        Pair().start().device.request(RkeAction.LOCK, 0.0)


# --- ranging -----------------------------------------------------------------------------------


def uwb(number: UwbId) -> Opaque:
    return Opaque(message=Message(MessageType.UWB, number, b"\x00\x01\x01"))


INITIATE = Ranging(kind=RangingKind.INITIATE)
RESUME = Ranging(kind=RangingKind.INITIATE_RESUME)
FAILED = Ranging(kind=RangingKind.SECURE_RANGING_FAILED)
SUSPENDED = Ranging(kind=RangingKind.SUSPENDED)


def test_ranging_setup_passes_and_stops_its_time() -> None:
    pair = established(remote_only=False)
    steps = [
        (pair.device, INITIATE),
        (pair.reader, uwb(UwbId.M1)),
        (pair.device, uwb(UwbId.M2)),
        (pair.reader, uwb(UwbId.M3)),
    ]
    for now, (session, content) in enumerate(steps):
        session.send(content, float(now))
        pair.pump(float(now))
        assert pair.reader.deadline == pair.device.deadline == now + RESPONSE_TIMEOUT_S
    pair.device.send(uwb(UwbId.M4), 4.0)
    pair.pump(4.0)
    assert pair.reader.deadline is pair.device.deadline is None


@pytest.mark.parametrize(
    ("own", "theirs", "reader_serves", "device_serves"),
    [
        (uwb(UwbId.M1), INITIATE, False, True),
        (uwb(UwbId.SUSPEND_RQ), INITIATE, True, False),
        (uwb(UwbId.SUSPEND_RQ), RESUME, True, False),
        (uwb(UwbId.SUSPEND_RQ), uwb(UwbId.SUSPEND_RQ), True, False),
        (uwb(UwbId.RESUME_RQ), INITIATE, True, False),
        (uwb(UwbId.RESUME_RQ), uwb(UwbId.SUSPEND_RQ), True, False),
        (uwb(UwbId.SUSPEND_RQ), SUSPENDED, False, True),
        (SUSPENDED, INITIATE, True, False),
        (FAILED, INITIATE, True, False),
        (FAILED, RESUME, True, False),
        (FAILED, uwb(UwbId.SUSPEND_RQ), False, True),
    ],
)
def test_of_two_messages_that_cross_the_device_wins(
    own: Ranging | Opaque,
    theirs: Ranging | Opaque,
    reader_serves: bool,
    device_serves: bool,
) -> None:
    pair = established(remote_only=False)
    pair.reader.send(own, 0.0)
    pair.device.send(theirs, 0.0)
    up, down = pair.device.outbox(), pair.reader.outbox()
    served = pair.reader.receive(up[0], 0.0), pair.device.receive(down[0], 0.0)
    assert [bool(events) for events in served] == [reader_serves, device_serves]
    assert not pair.reader.done
    assert not pair.device.done


def test_an_answer_to_no_ranging_request_ends_the_session() -> None:
    pair = established(remote_only=False)
    with pytest.raises(LocalFault):
        pair.device.send(uwb(UwbId.M2), 0.0)
    assert ended(forged(pair, uwb(UwbId.M2), from_reader=False)) is EndReason.VIOLATION


def test_only_the_device_initiates_ranging() -> None:
    pair = established(remote_only=False)
    with pytest.raises(LocalFault):
        pair.reader.send(INITIATE, 0.0)
    assert ended(forged(pair, INITIATE, from_reader=True)) is EndReason.VIOLATION


def test_an_error_as_the_reply_to_a_ranging_request_ends_the_session() -> None:
    pair = established(remote_only=False)
    pair.device.send(INITIATE, 0.0)
    pair.pump()
    assert ended(forged(pair, GeneralError(reason=3), from_reader=True)) is EndReason.PEER


def test_an_unknown_notification_attribute_is_ignored_once_established() -> None:
    pair = established()
    event = Opaque(message=Message(MessageType.NOTIFICATION, NotificationId.EVENT, b"\x70\x00"))
    assert decode(event.message) == event
    assert forged(pair, event, from_reader=True) == ()
    assert not pair.device.done


# --- what only the owner of the session understands ----------------------------------------------


def test_both_ends_give_the_ranging_session_the_same_name_and_each_connection_another() -> None:
    pairs = [Pair(remote_only=False, reader_entropy=SeededEntropy(n)).start() for n in (1, 2)]
    names = []
    for pair in pairs:
        pair.pump()
        ends = pair.reader_events, pair.device_events
        told = {first_of(events, Established).session_id for events in ends}
        assert len(told) == 1
        names += told
    transaction = first_of(pairs[0].device_events, Established).transaction
    assert transaction is not None
    assert names[0] == int.from_bytes(transaction.transaction_id[-4:], "big")
    assert names[0] != names[1]


@pytest.mark.parametrize("from_reader", [True, False])
def test_a_ranging_secret_that_died_is_told_and_the_session_goes_on(from_reader: bool) -> None:
    pair = Pair(remote_only=False).start().pump()
    (pair.reader if from_reader else pair.device).unavailable(0.0)
    pair.pump()
    told = (pair.device_events if from_reader else pair.reader_events)[-1]
    assert isinstance(told, RangingUnavailable)
    assert not pair.reader.done
    assert not pair.device.done


def test_the_owner_ends_a_session_for_a_ranging_message_that_it_cannot_take() -> None:
    pair = Pair(remote_only=False).start().pump()
    error = WireError("no such slot", clause="Aliro 1.0 §11.7.2")
    assert ended(pair.reader.reject(error)) is EndReason.VIOLATION
    assert pair.reader.error is error
    pair.pump()
    assert ended(pair.device_events) is EndReason.PEER
    assert pair.reader.reject(error) == ()
