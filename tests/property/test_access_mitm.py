"""Somebody on the wire, byte by byte; and any command in any order at the device."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dkey.access.applet import AppletHost
from dkey.access.certificate import ReaderCertificate
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.device import AccessApplet
from dkey.access.device_states import TRANSITIONS, DeviceState
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.exchange import ExchangeRequest, ReaderStatus
from dkey.access.messages import (
    Auth0Command,
    Auth0Response,
    Auth1Command,
    ControlFlow,
    Ins,
    command,
)
from dkey.access.profile import ALIRO, Interface
from dkey.access.reader import AccessReader
from dkey.access.schedule import DEVICE_USAGE, READER_USAGE, Context, diffie_hellman_key
from dkey.access.select import SelectResponse, select_command
from dkey.codec.apdu import Command
from dkey.crypto.channel import SecureChannel
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import DkeyError, LinkError, LinkReason, WireError
from dkey.link.driver import run_blocking
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.access.schedule import SessionKeys
    from dkey.access.session import Session

READER, ISSUER, PHONE_A, PHONE_B = (
    PrivateKey.from_scalar(bytes(31) + bytes((n,))) for n in (2, 3, 4, 5)
)
GROUP, SUB = bytes(range(16)), bytes(range(16, 32))
KEY_A, KEY_B = Secret(b"\x4a" * 32), Secret(b"\x4b" * 32)
SESSIONS = 400
"""Seeded sessions for each kind of attack."""


class SpyVault(MemoryVault):
    """Remembers what it signed."""

    def __init__(self, key: PrivateKey) -> None:
        super().__init__(c=key)
        self.signed: set[bytes] = set()

    def sign(self, key: str, digest: bytes) -> bytes:
        self.signed.add(digest)
        return super().sign(key, digest)


class Phone:
    """A device, and what truly reached it and left it."""

    def __init__(self, key: PrivateKey, kpersistent: Secret, seed: str) -> None:
        self.vault = SpyVault(key)
        trusted = TrustedReader(group_id=GROUP, public_key=READER.public)
        self.applet = AccessApplet(
            DeviceCredential(
                profile=ALIRO,
                vault=self.vault,
                key="c",
                readers={GROUP: trusted},
                kpersistent={(GROUP, SUB): kpersistent},
            ),
            SeededEntropy(seed),
        )
        self.host = AppletHost([self.applet])
        self.passed: list[tuple[bytes, bytes]] = []

    def answer(self, apdu: bytes) -> bytes:
        response = self.host.answer(apdu)
        self.passed.append((apdu, response))
        return response


class Wire:
    """Carries commands to phone A and its answers back, and attacks at some of the steps."""

    def __init__(self, kind: str, dice: Random, archive: list[tuple[bytes, bytes]]) -> None:
        seed = str(dice.random())
        self.phones = (Phone(PHONE_A, KEY_A, seed), Phone(PHONE_B, KEY_B, seed + "b"))
        self.kind, self.dice, self.archive = kind, dice, archive
        self.targets = set(dice.sample(range(6), dice.randint(1, 2)))
        self.step = 0
        self.seen: list[tuple[bytes, bytes]] = []
        self.struck = False

    def exchange(self, apdu: bytes) -> bytes:
        attack = self.step in self.targets and self.kind != "none"
        self.step += 1
        if attack:
            self.struck = True
            response = getattr(self, self.kind)(apdu)
        else:
            response = self.phones[0].answer(apdu)
        self.seen.append((apdu, response))
        return response

    def drop(self, apdu: bytes) -> bytes:
        if self.dice.random() < 0.5:
            self.phones[0].answer(apdu)
        raise LinkError(LinkReason.TIMEOUT, "nothing came")

    def duplicate(self, apdu: bytes) -> bytes:
        answers = [self.phones[0].answer(apdu) for _ in range(2)]
        return self.dice.choice(answers)

    def reorder(self, apdu: bytes) -> bytes:
        """Deliver an older command, or another answer than the one that came."""
        earlier = self.dice.choice([*self.seen, (apdu, b"\x90\x00")])
        if self.dice.random() < 0.5:
            first = self.phones[0].answer(earlier[0])
            return self.dice.choice([first, self.phones[0].answer(apdu)])
        self.phones[0].answer(apdu)
        return earlier[1]

    def flip(self, apdu: bytes) -> bytes:
        if self.dice.random() < 0.5:
            return self.phones[0].answer(self.bit(apdu))
        return self.bit(self.phones[0].answer(apdu))

    def truncate(self, apdu: bytes) -> bytes:
        if self.dice.random() < 0.5:
            return self.phones[0].answer(apdu[: self.dice.randrange(len(apdu))])
        response = self.phones[0].answer(apdu)
        cut = response[: self.dice.randrange(len(response))]
        return cut if self.dice.random() < 0.5 else cut + b"\x90\x00"

    def splice(self, apdu: bytes) -> bytes:
        """Put in a piece of another session: a recorded one, or one with another device."""
        how = self.dice.randrange(4)
        same = [pair for pair in self.archive if pair[0][1] == apdu[1]] or self.archive
        recorded = self.dice.choice(same)
        if how == 0:
            return self.phones[0].answer(recorded[0])
        if how == 1:
            self.phones[0].answer(apdu)
            return recorded[1]
        for earlier, _ in self.seen:
            self.phones[1].answer(earlier)
        response = self.phones[1].answer(apdu)
        if how == 2:
            self.phones = self.phones[::-1]  # type: ignore[assignment]
        return response

    def bit(self, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[self.dice.randrange(len(data))] ^= 1 << self.dice.randrange(8)
        return bytes(changed)


class Run:
    """One session of a reader over an attacked wire."""

    def __init__(self, wire: Wire, dice: Random) -> None:
        self.wire = wire
        flow = dice.choice([Flow.FAST, Flow.STANDARD, Flow.AUTO])
        keys = (KEY_A, KEY_B) if dice.random() < 0.7 else (KEY_B, KEY_A)  # or none that matches
        directory = MemoryDirectory(
            EnrolledCredential(name=name, public_key=key.public, kpersistent=kept)
            for name, key, kept in (("a", PHONE_A, keys[0]), ("b", PHONE_B, keys[1]))
        )
        identity = ReaderIdentity(
            profile=ALIRO, group_id=GROUP, sub_id=SUB, vault=MemoryVault(r=READER), key="r"
        )
        reader = AccessReader(identity, directory, SeededEntropy(str(dice.random())))
        self.status = dice.choice([ReaderStatus.SECURE, ReaderStatus.UNSECURE])
        self.session: Session | None = None
        self.completed = False
        self.error: DkeyError | None = None
        self.sent: list[bytes] = []
        self.got: list[bytes] = []
        try:
            self.session = run_blocking(reader.authenticate(flow), self._exchange)
            run_blocking(self.session.complete(self.status), self._exchange)
            self.completed = True
        except DkeyError as exc:
            self.error = exc

    def _exchange(self, apdu: bytes) -> bytes:
        self.sent.append(apdu)
        response = self.wire.exchange(apdu)
        self.got.append(response)
        return response

    def auth0(self) -> tuple[Auth0Command, Auth0Response]:
        """Return AUTH0 as the reader sent it, and the answer that the reader took."""
        first = next(n for n, apdu in enumerate(self.sent) if apdu[1] == Ins.AUTH0)
        sent = Auth0Command.parse(Command.parse(self.sent[first]).data)
        at, data = first, self.got[first]
        while data[-2] == 0x61:
            at += 1
            data = data[:-2] + self.got[at]
        return sent, Auth0Response.parse(data[:-2])


def secrets(keys: SessionKeys) -> tuple[bytes, ...]:
    return tuple(k.reveal() for k in (keys.exchange_reader, keys.exchange_device, keys.ursk))


def answered(run: Run) -> bool:
    """Whether a device itself answered the transaction that the reader ran."""
    assert run.session is not None
    sent, taken = run.auth0()
    if run.session.flow is Flow.FAST:
        return any(
            any(sent.to_bytes() in apdu for apdu, _ in phone.passed)
            and taken.cryptogram in b"".join(response[:-2] for _, response in phone.passed)
            for phone in run.wire.phones
        )  # joined, because a changed Le makes the answer come in parts
    signed = b"".join(
        (
            b"\x4d\x20" + sent.reader_id,
            b"\x86\x20" + taken.device_ephemeral[1:33],
            b"\x87\x20" + sent.reader_ephemeral[1:33],
            b"\x4c\x10" + sent.transaction_id,
            b"\x93\x04" + DEVICE_USAGE,
        )
    )
    digest = sha256(signed).digest()
    return any(digest in phone.vault.signed for phone in run.wire.phones)


def judge(run: Run) -> None:
    """What must hold after any session."""
    events = [event for phone in run.wire.phones for event in phone.applet.events]
    if run.session is not None:
        assert answered(run)
    if run.completed:
        assert run.session is not None
        (event,) = events
        assert event.status == run.status
        assert event.fast is (run.session.flow is Flow.FAST)
    for event in events:
        if event.status >= ReaderStatus.SECURE:  # a command that a device took for the reader's
            assert run.session is not None
            assert secrets(event.keys) == secrets(run.session.keys)
            assert event.status == run.status


def honest(dice: Random) -> Run:
    return Run(Wire("none", dice, []), dice)


@pytest.mark.parametrize("kind", ["drop", "duplicate", "reorder", "flip", "truncate", "splice"])
def test_no_attack_on_the_wire_makes_the_sides_disagree(kind: str) -> None:
    archive = [pair for n in range(6) for pair in honest(Random(f"archive {n}")).wire.seen]
    struck = failed = 0
    for number in range(SESSIONS):
        dice = Random(f"{kind} {number}")
        run = Run(Wire(kind, dice, archive), dice)
        judge(run)
        struck += run.wire.struck
        failed += run.error is not None
    assert struck > SESSIONS * 3 // 5
    assert failed > SESSIONS // 3


def test_untouched_sessions_agree_and_complete() -> None:
    completed = 0
    for number in range(60):
        run = honest(Random(f"honest {number}"))
        judge(run)
        completed += run.completed
    assert completed > 40  # the others asked for fast only, and no key matched


def test_the_judge_notices_sides_that_disagree() -> None:
    dice = Random("judge 1")
    run = honest(dice)
    while not run.completed:
        run = honest(dice)
    other = honest(dice)
    while not other.completed:
        other = honest(dice)
    run.session = other.session
    with pytest.raises(AssertionError):
        judge(run)


def test_a_changed_bit_in_any_byte_of_a_standard_transaction_is_noticed() -> None:
    """The AUTH0 answer and the final EXCHANGE answer, one byte at a time."""
    for ins, count in ((Ins.AUTH0, 67), (Ins.EXCHANGE, 20)):
        for at in range(count):
            phone = Phone(PHONE_A, KEY_A, "bits")

            def exchange(apdu: bytes, at: int = at, ins: Ins = ins, phone: Phone = phone) -> bytes:
                response = bytearray(phone.answer(apdu))
                if apdu[1] == ins and at < len(response):
                    response[at] ^= 1 << at % 8
                return bytes(response)

            identity = ReaderIdentity(
                profile=ALIRO, group_id=GROUP, sub_id=SUB, vault=MemoryVault(r=READER), key="r"
            )
            known = EnrolledCredential(name="a", public_key=PHONE_A.public)
            reader = AccessReader(identity, MemoryDirectory([known]), SeededEntropy(at))

            def whole(
                reader: AccessReader = reader, exchange: Callable[[bytes], bytes] = exchange
            ) -> None:
                session = run_blocking(reader.authenticate(Flow.STANDARD), exchange)
                run_blocking(session.complete(ReaderStatus.UNSECURE), exchange)

            with pytest.raises(DkeyError):
                whole()


# --- any command in any order -----------------------------------------------------------------

CERTIFICATE = ReaderCertificate.issue(
    MemoryVault(i=ISSUER), "i", ISSUER.public, READER.public
).compress()
S = DeviceState


class AnyOrder(RuleBasedStateMachine):
    """Fires commands at one device and predicts its state from the table."""

    def __init__(self) -> None:
        super().__init__()
        trusted = TrustedReader(group_id=GROUP, public_key=READER.public, issuer_key=ISSUER.public)
        self.credential = DeviceCredential(
            profile=ALIRO,
            vault=MemoryVault(c=PHONE_A),
            key="c",
            readers={GROUP: trusted},
            kpersistent={(GROUP, SUB): KEY_A},
        )
        self.applet = AccessApplet(self.credential, SeededEntropy("order"))
        self.host = AppletHost([self.applet])
        self.entropy = SeededEntropy("reader")
        self.selected = False
        self.expected = S.ENDED
        self.ephemeral = READER
        self.context: Context | None = None
        self.channel: SecureChannel | None = None
        self.statuses: list[int] = []

    def fire(self, apdu: bytes, ins: Ins, *, valid: bool, leads: DeviceState) -> bytes:
        """Send one command; ``valid`` is whether the table alone decides."""
        taken = self.selected and valid and (self.expected, ins) in TRANSITIONS
        if taken:
            assert leads in TRANSITIONS[self.expected, ins]
        response = self.host.answer(apdu)
        if taken:
            assert response[-2:] == b"\x90\x00"
            self.expected = leads
            return response[:-2]
        assert len(response) == 2
        assert response != b"\x90\x00"
        self.expected = S.ENDED
        return b""

    @rule()
    def select(self) -> None:
        assert self.host.answer(select_command(ALIRO.access_aid).to_bytes())[-2:] == b"\x90\x00"
        self.selected, self.expected, self.channel = True, S.SELECTED, None

    @rule()
    def select_another(self) -> None:
        assert self.host.answer(select_command(b"\xf0\x01\x02\x03\x04").to_bytes()) == b"\x6a\x82"
        self.selected, self.expected = False, S.ENDED

    @rule()
    def field_off(self) -> None:
        self.host.field_off()
        self.selected, self.expected = False, S.ENDED

    @rule(fast=st.booleans(), good=st.sampled_from([True, True, True, False]))
    def auth0(self, fast: bool, good: bool) -> None:
        ephemeral = self.entropy.ephemeral()
        message = Auth0Command(
            parameters=int(fast),
            policy=1,
            version=b"\x01\x00" if good else b"\x00\x09",
            reader_ephemeral=ephemeral.public.point,
            transaction_id=self.entropy.random(16),
            reader_id=GROUP + SUB,
        )
        data = self.fire(
            command(Ins.AUTH0, message.to_bytes()).to_bytes(),
            Ins.AUTH0,
            valid=good,
            leads=S.AUTH0_FAST if fast else S.AUTH0_STANDARD,
        )
        if not data:
            return
        answer = Auth0Response.parse(data)
        own = SelectResponse(aid=ALIRO.access_aid, versions=ALIRO.versions)
        self.ephemeral = ephemeral
        self.device_point = answer.device_ephemeral
        self.context = Context(
            group_key_x=ISSUER.public.x,
            reader_id=message.reader_id,
            interface=Interface.NFC,
            version=message.version,
            reader_ephemeral_x=ephemeral.public.x,
            device_ephemeral_x=answer.device_ephemeral[1:33],
            transaction_id=message.transaction_id,
            parameters=message.parameters,
            policy=1,
            a5=own.encode_a5(),
        )
        if fast:
            self.open(self.context.fast(self.kpersistent(), PHONE_A.public.x))

    def kpersistent(self) -> Secret:
        return self.credential.kpersistent[GROUP, SUB]

    def open(self, keys: SessionKeys) -> None:
        self.channel = SecureChannel(keys.exchange_reader, keys.exchange_device, is_reader=True)

    @rule(good=st.booleans())
    def load_cert(self, good: bool) -> None:
        data = CERTIFICATE if good else CERTIFICATE[:-2]
        self.fire(
            command(Ins.LOAD_CERT, data).to_bytes(), Ins.LOAD_CERT, valid=good, leads=S.CERTIFICATE
        )

    @rule(good=st.sampled_from([True, True, False]))
    def auth1(self, good: bool) -> None:
        certified = self.expected is S.CERTIFICATE
        signature = bytes(63) + b"\x01"
        if self.context is not None and good:
            signature = READER.sign_data(self.context.signed_data(READER_USAGE))
        message = Auth1Command(want_public_key=True, signature=signature)
        data = self.fire(
            command(Ins.AUTH1, message.to_bytes()).to_bytes(),
            Ins.AUTH1,
            valid=good,
            leads=S.SECURED,
        )
        if data and self.context is not None:
            group = ISSUER.public if certified else READER.public
            shared = self.ephemeral.agree(PublicKey.parse(self.device_point))
            kdh = diffie_hellman_key(shared, self.context.transaction_id)
            self.open(replace(self.context, group_key_x=group.x).standard(kdh))
            assert self.channel is not None
            self.channel.open(data)

    @rule(good=st.sampled_from([True, True, False]), last=st.booleans())
    def exchange(self, good: bool, last: bool) -> None:
        request = ExchangeRequest(status=ReaderStatus.SECURE if last else None)
        sealed = bytes(20)
        if self.channel is not None and good:
            sealed = self.channel.seal(request.to_bytes())
        data = self.fire(
            command(Ins.EXCHANGE, sealed).to_bytes(),
            Ins.EXCHANGE,
            valid=good,
            leads=S.ENDED if last else S.SECURED,
        )
        if data:
            assert self.channel is not None
            assert self.channel.open(data) == b"\x00\x02\x00\x00"
            if last:
                self.statuses.append(ReaderStatus.SECURE)

    @rule()
    def control_flow(self) -> None:
        apdu = command(Ins.CONTROL_FLOW, ControlFlow().to_bytes()).to_bytes()
        assert (self.host.answer(apdu) == b"\x90\x00") is self.selected
        self.expected = S.ENDED

    @rule(apdu=st.binary(max_size=40))
    def anything(self, apdu: bytes) -> None:
        try:
            parsed = Command.parse(apdu)
        except WireError:
            parsed = None
        if parsed is not None and (parsed.cla & 0x10 or parsed.ins in (0xA4, 0x3C)):
            return  # those have rules of their own
        response = self.host.answer(apdu)
        assert len(response) == 2
        assert response != b"\x90\x00"
        self.expected = S.ENDED

    @invariant()
    def the_state_is_the_one_of_the_table(self) -> None:
        assert self.applet.state is self.expected

    @invariant()
    def only_final_statuses_are_events(self) -> None:
        assert [event.status for event in self.applet.events] == self.statuses


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
