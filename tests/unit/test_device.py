"""The device role, driven command by command: its state table and what a failure shows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dkey.access.applet import AppletHost
from dkey.access.certificate import ReaderCertificate
from dkey.access.credential import DeviceCredential, TrustedReader, key_slot
from dkey.access.device import AccessApplet
from dkey.access.device_states import TRANSITIONS, DeviceState
from dkey.access.exchange import (
    SUCCESS,
    ExchangeRequest,
    Read,
    ReaderStatus,
    Set,
    Write,
    parse_response,
)
from dkey.access.mailbox import Mailbox
from dkey.access.messages import (
    Auth0Command,
    Auth0Response,
    Auth1Command,
    Auth1Payload,
    ControlFlow,
    Ins,
    Signaling,
    command,
    vendor_extension,
)
from dkey.access.profile import ALIRO, VEHICLE, Interface, Profile
from dkey.access.schedule import DEVICE_USAGE, READER_USAGE, Context, diffie_hellman_key
from dkey.access.select import SelectResponse, select_command
from dkey.codec.apdu import Command, Response
from dkey.crypto.channel import SecureChannel, open_once
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import StoreError
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from dkey.access.credential import DeviceStore

READER, CREDENTIAL, ISSUER, STRANGER = (
    PrivateKey.from_scalar(bytes(31) + bytes((n,))) for n in (2, 3, 4, 5)
)
GROUP, SUB = bytes(range(16)), bytes(range(16, 32))
OTHER_GROUP = b"\xee" * 16
KPERSISTENT = Secret(b"\x4b" * 32)
S = DeviceState


def certificate(
    issuer: PrivateKey = ISSUER, subject: PrivateKey = READER, name: str = "door"
) -> bytes:
    vault = MemoryVault(issuer=issuer)
    return ReaderCertificate.issue(
        vault, "issuer", issuer.public, subject.public, subject=name
    ).compress()


class Bench:
    """A device, and a reader made by hand from the key schedule."""

    def __init__(
        self,
        *,
        profile: Profile = ALIRO,
        groups: tuple[bytes, ...] = (GROUP,),
        issuer: PrivateKey | None = ISSUER,
        stored: bool = True,
        mailbox: Mailbox | None = None,
        store: DeviceStore | None = None,
        interface: Interface = Interface.NFC,
        extension: bytes = b"",
        user: bool = True,
        fast_enabled: bool = True,
        seed: str = "device",
    ) -> None:
        self.profile, self.interface = profile, interface
        self.credential = DeviceCredential(
            profile=profile,
            vault=MemoryVault(credential=CREDENTIAL),
            key="credential",
            readers={
                group: TrustedReader(
                    group_id=group,
                    public_key=READER.public,
                    issuer_key=None if issuer is None else issuer.public,
                )
                for group in groups
            },
            kpersistent={(group, SUB): KPERSISTENT for group in groups} if stored else {},
            mailbox=mailbox,
        )
        self.applet = AccessApplet(
            self.credential,
            SeededEntropy(seed),
            store=store,
            interface=interface,
            extension=extension,
            user_authenticated=user,
            fast_enabled=fast_enabled,
        )
        self.host = AppletHost([self.applet])
        self.entropy = SeededEntropy("reader")
        self.wire: list[bytes] = []
        self.context: Context | None = None
        self.answer = Auth0Response(device_ephemeral=b"")
        self.ephemeral = READER
        self.certified = False
        self.channel: SecureChannel | None = None

    def send(self, apdu: Command | bytes) -> Response:
        raw = self.host.answer(apdu if isinstance(apdu, bytes) else apdu.to_bytes())
        self.wire.append(raw)
        found = Response.parse(raw)
        while found.sw >> 8 == 0x61:
            rest = self.host.answer(bytes.fromhex("00C0000000"))
            found = Response(found.data + rest[:-2], int.from_bytes(rest[-2:], "big"))
        return found

    def select(self) -> Response:
        return self.send(select_command(self.profile.access_aid))

    def auth0_command(
        self,
        *,
        fast: bool = False,
        policy: int = 1,
        group: bytes = GROUP,
        version: bytes = b"\x01\x00",
        extension: bytes = b"",
    ) -> Auth0Command:
        self.ephemeral = self.entropy.ephemeral()
        return Auth0Command(
            parameters=int(fast),
            policy=policy,
            version=version,
            reader_ephemeral=self.ephemeral.public.point,
            transaction_id=self.entropy.random(16),
            reader_id=group + SUB,
            extension=extension,
        )

    def auth0(self, request: Auth0Command | None = None, **options: object) -> Response:
        request = request or self.auth0_command(**options)  # type: ignore[arg-type]
        response = self.send(command(Ins.AUTH0, request.to_bytes()))
        if response.sw != 0x9000:
            return response
        self.answer = Auth0Response.parse(response.data)
        trusted = self.credential.readers.get(request.reader_id[:16])
        issuer = None if trusted is None else trusted.issuer_key
        self.certified = False
        own = SelectResponse(aid=self.profile.access_aid, versions=self.profile.versions)
        self.context = Context(
            group_key_x=(issuer or READER.public).x,
            reader_id=request.reader_id,
            interface=self.interface,
            version=request.version,
            reader_ephemeral_x=self.ephemeral.public.x,
            device_ephemeral_x=self.answer.device_ephemeral[1:33],
            transaction_id=request.transaction_id,
            parameters=request.parameters,
            policy=request.policy,
            a5=own.encode_a5(),
            extensions=request.extension_object + self.answer.extension_object,
        )
        if request.fast:
            keys = self.context.fast(KPERSISTENT, CREDENTIAL.public.x)
            self.channel = SecureChannel(keys.exchange_reader, keys.exchange_device, is_reader=True)
        return response

    def load_cert(self, compressed: bytes) -> Response:
        return self.send(command(Ins.LOAD_CERT, compressed))

    def auth1_command(
        self, *, key: PrivateKey = READER, inline: bytes = b"", want_public_key: bool = True
    ) -> Command:
        signature = bytes(63) + b"\x01"
        if self.context is not None:
            signature = key.sign_data(self.context.signed_data(READER_USAGE))
        request = Auth1Command(
            want_public_key=want_public_key, signature=signature, certificate=inline
        )
        return command(Ins.AUTH1, request.to_bytes())

    def auth1(
        self,
        *,
        key: PrivateKey = READER,
        inline: bytes = b"",
        group_key: PublicKey | None = None,
        want_public_key: bool = True,
    ) -> Response:
        """Send AUTH1 and derive the keys of the group key, the issuer's with a certificate."""
        request = self.auth1_command(key=key, inline=inline, want_public_key=want_public_key)
        long = request.data
        while len(long) > 255:
            self.send(Command(0x90, request.ins, 0, 0, long[:255]))
            long = long[255:]
        response = self.send(Command(0x80, request.ins, 0, 0, long, 256))
        if response.sw == 0x9000 and self.context is not None:
            group = group_key or (ISSUER.public if inline or self.certified else READER.public)
            context = replaced(self.context, group)
            shared = self.ephemeral.agree(PublicKey.parse(self.answer.device_ephemeral))
            self.kdh = diffie_hellman_key(shared, context.transaction_id)
            keys = context.standard(self.kdh)
            self.context, self.keys = context, keys
            self.channel = SecureChannel(keys.exchange_reader, keys.exchange_device, is_reader=True)
            self.payload = Auth1Payload.parse(self.channel.open(response.data))
        return response

    def exchange(self, request: ExchangeRequest | bytes) -> Response:
        assert self.channel is not None
        plain = request if isinstance(request, bytes) else request.to_bytes()
        return self.send(command(Ins.EXCHANGE, self.channel.seal(plain)))

    def asked(self, request: ExchangeRequest | bytes) -> tuple[tuple[bytes, ...], int]:
        """Send an EXCHANGE that is answered 9000; return its reads and result."""
        response = self.exchange(request)
        assert response.sw == 0x9000
        assert self.channel is not None
        return parse_response(self.channel.open(response.data))

    def reach(self, state: DeviceState) -> None:
        self.select()
        if state is S.SELECTED:
            return
        self.auth0(fast=state is S.AUTH0_FAST)
        if state is S.CERTIFICATE:
            self.load_cert(certificate())
            self.certified = True
        if state in (S.SECURED, S.ENDED):
            self.auth1()
        if state is S.ENDED:
            self.send(control_flow())
        assert self.applet.state is state

    def best(self, ins: Ins) -> Command:
        """Return the command that has the best chance to be taken."""
        if ins is Ins.AUTH0:
            return command(ins, self.auth0_command().to_bytes())
        if ins is Ins.LOAD_CERT:
            return command(ins, certificate())
        if ins is Ins.AUTH1:
            return self.auth1_command()
        if ins is Ins.EXCHANGE:
            plain = ExchangeRequest().to_bytes()
            return command(ins, self.channel.seal(plain) if self.channel else bytes(20))
        if ins is Ins.CONTROL_FLOW:
            return control_flow()
        return Command(0x00, ins, 0, 0, b"\x53\x00", 256)


def replaced(context: Context, group: PublicKey) -> Context:

    return replace(context, group_key_x=group.x)


def control_flow() -> Command:
    return command(Ins.CONTROL_FLOW, ControlFlow().to_bytes())


def require_ended(bench: Bench) -> None:
    """What every failure leaves: no keys, and CONTROL FLOW is still answered."""
    assert bench.applet.state is S.ENDED
    channel = bench.channel
    if channel is not None and channel.alive:
        refused = bench.send(command(Ins.EXCHANGE, channel.seal(b"")))
        assert refused.sw != 0x9000
        assert refused.data == b""
    assert bench.send(control_flow()) == Response()


# --- the state table --------------------------------------------------------------------------

COMMANDS = (Ins.AUTH0, Ins.LOAD_CERT, Ins.AUTH1, Ins.EXCHANGE)
REFUSED = [(s, i) for s in S for i in (*COMMANDS, Ins.ENVELOPE) if (s, i) not in TRANSITIONS]


@pytest.mark.parametrize("pair", TRANSITIONS, ids=lambda p: f"{p[0].name}-{p[1].name}")
def test_a_pair_of_the_table_is_taken_and_leads_where_the_table_says(
    pair: tuple[DeviceState, Ins],
) -> None:
    state, ins = pair
    bench = Bench()
    bench.reach(state)
    assert bench.send(bench.best(ins)).sw == 0x9000
    assert bench.applet.state in TRANSITIONS[pair]


@pytest.mark.parametrize("pair", REFUSED, ids=lambda p: f"{p[0].name}-{p[1].name}")
def test_a_pair_outside_the_table_ends_the_transaction_without_data(
    pair: tuple[DeviceState, Ins],
) -> None:
    state, ins = pair
    bench = Bench()
    bench.reach(state)
    response = bench.send(bench.best(ins))
    assert response.sw != 0x9000
    assert response.data == b""
    require_ended(bench)


@pytest.mark.parametrize("state", S)
def test_control_flow_is_answered_9000_in_every_state(state: DeviceState) -> None:
    bench = Bench()
    bench.reach(state)
    assert bench.send(control_flow()) == Response()
    require_ended(bench)


@pytest.mark.parametrize("state", S)
def test_select_begins_anew_from_every_state(state: DeviceState) -> None:
    bench = Bench()
    bench.reach(state)
    old = bench.channel
    assert bench.select().sw == 0x9000
    assert bench.applet.state is S.SELECTED
    assert bench.auth0().sw == 0x9000
    assert bench.auth1().sw == 0x9000
    assert bench.channel is not old


def test_the_final_status_ends_the_transaction() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    assert bench.asked(ExchangeRequest(status=ReaderStatus.UNSECURE)) == ((), 0)
    (event,) = bench.applet.events
    assert (event.group_id, event.sub_id, event.fast) == (GROUP, SUB, False)
    assert event.status == ReaderStatus.UNSECURE
    require_ended(bench)


def test_a_fast_transaction_ends_the_same_way() -> None:
    bench = Bench()
    bench.reach(S.AUTH0_FAST)
    assert bench.asked(ExchangeRequest(status=ReaderStatus.SECURE)) == ((), 0)
    assert bench.applet.events[0].fast
    require_ended(bench)


def test_a_transaction_without_a_final_status_is_no_event() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    bench.asked(ExchangeRequest())
    bench.host.field_off()
    assert not bench.applet.events


# --- APDU form --------------------------------------------------------------------------------


@pytest.mark.parametrize("ins", COMMANDS)
def test_a_command_with_parameters_or_another_class_is_a_failure(ins: Ins) -> None:
    for cla, p1, p2 in ((0x80, 1, 0), (0x80, 0, 1), (0x00, 0, 0), (0x84, 0, 0)):
        bench = Bench()
        bench.reach(S.SELECTED)
        best = bench.best(ins)
        response = bench.send(Command(cla, best.ins, p1, p2, best.data, 256))
        assert response.sw != 0x9000
        assert response.data == b""
        require_ended(bench)


def test_a_malformed_apdu_ends_the_transaction() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    assert bench.send(bytes.fromhex("80C9000005AA")) == Response(sw=0x6700)
    require_ended(bench)


@pytest.mark.parametrize("le", [None, 256])
def test_le_may_be_there_or_not(le: int | None) -> None:
    bench = Bench()
    bench.select()
    request = bench.auth0_command()
    assert bench.send(Command(0x80, Ins.AUTH0, 0, 0, request.to_bytes(), le)).sw == 0x9000
    assert bench.send(Command(0x80, Ins.LOAD_CERT, 0, 0, certificate(), le)).sw == 0x9000


def test_control_flow_with_le_and_unknown_objects_is_answered() -> None:
    bench = Bench()
    bench.select()
    data = bytes.fromhex("4101004201276307B5050403010203")
    assert bench.send(Command(0x80, Ins.CONTROL_FLOW, 0, 0, data, 256)) == Response()


def test_another_application_is_not_found_and_forgets_the_selected_one() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    assert bench.send(select_command(b"\xa0\x00\x00\x00\x03\x00")).sw == 0x6A82
    assert bench.applet.state is S.ENDED
    assert bench.channel is not None
    assert bench.exchange(ExchangeRequest()).sw != 0x9000


def test_a_command_before_select_is_an_error_without_data() -> None:
    bench = Bench()
    response = bench.send(command(Ins.AUTH0, bench.auth0_command().to_bytes()))
    assert response.sw != 0x9000
    assert response.data == b""


def test_a_command_in_a_chain_of_short_blocks_is_taken() -> None:
    bench = Bench()
    bench.select()
    data = bench.auth0_command().to_bytes()
    for at in range(0, 100, 50):
        assert bench.send(Command(0x90, Ins.AUTH0, 0, 0, data[at : at + 50])) == Response()
    assert bench.send(Command(0x80, Ins.AUTH0, 0, 0, data[100:], 256)).sw == 0x9000


def test_a_command_of_2000_bytes_is_assembled() -> None:
    bench = Bench(mailbox=Mailbox(data=bytes(3000)))
    bench.reach(S.SECURED)
    assert bench.channel is not None
    request = ExchangeRequest(mailbox=(Write(0, b"\x5a" * 1990),))
    sealed = bench.channel.seal(request.to_bytes())
    assert len(sealed) >= 2000
    while len(sealed) > 255:
        assert bench.send(Command(0x90, Ins.EXCHANGE, 0, 0, sealed[:255])) == Response()
        sealed = sealed[255:]
    answer = bench.send(Command(0x80, Ins.EXCHANGE, 0, 0, sealed, 256))
    assert bench.channel.open(answer.data) == SUCCESS
    assert bench.credential.mailbox is not None
    assert bench.credential.mailbox.data[:1991] == b"\x5a" * 1990 + b"\0"


def test_a_chain_broken_by_another_command_ends_the_transaction() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    bench.send(Command(0x90, Ins.EXCHANGE, 0, 0, bytes(10)))
    assert bench.send(Command(0x80, Ins.AUTH0, 0, 0, bytes(10), 256)).sw != 0x9000
    require_ended(bench)


@pytest.mark.parametrize("cla", [0x00, 0x80])
def test_a_long_answer_is_fetched_with_either_class_byte(cla: int) -> None:
    mailbox = Mailbox(data=bytes(range(256)) * 2, subset=(0, 512))
    bench = Bench(mailbox=mailbox)
    bench.reach(S.AUTH0_STANDARD)
    raw = bench.host.answer(bench.auth1_command().to_bytes())
    data = b""
    while raw[-2] == 0x61:
        data += raw[:-2]
        raw = bench.host.answer(bytes((cla, 0xC0, 0, 0, raw[-1])))
    assert raw[-2:] == b"\x90\x00"
    assert len(data + raw[:-2]) > 512


# --- trust ------------------------------------------------------------------------------------


def test_a_known_reader_gets_a_proof_that_verifies() -> None:
    bench = Bench()
    bench.reach(S.AUTH0_STANDARD)
    bench.auth1()
    assert bench.payload.public_key == CREDENTIAL.public.point
    assert bench.context is not None
    CREDENTIAL.public.verify(bench.payload.signature, bench.context.signed_data(DEVICE_USAGE))


def test_bit_0_of_the_parameters_chooses_key_or_key_slot() -> None:
    bench = Bench()
    bench.reach(S.AUTH0_STANDARD)
    bench.auth1(want_public_key=False)
    assert bench.payload.key_slot == key_slot(CREDENTIAL.public)
    assert bench.payload.public_key == b""


@pytest.mark.parametrize("inline", [False, True])
def test_a_certified_reader_is_trusted_in_both_forms(inline: bool) -> None:
    subject = STRANGER
    bench = Bench()
    bench.select()
    bench.auth0()
    if inline:
        response = bench.auth1(key=subject, inline=certificate(subject=subject))
    else:
        assert bench.load_cert(certificate(subject=subject)) == Response()
        bench.certified = True
        response = bench.auth1(key=subject)
    assert response.sw == 0x9000
    assert bench.asked(ExchangeRequest()) == ((), 0)


def test_a_certificate_that_needs_a_chain_is_taken_with_auth1() -> None:
    bench = Bench()
    bench.reach(S.AUTH0_STANDARD)
    long = ReaderCertificate.issue(
        MemoryVault(issuer=ISSUER),
        "issuer",
        ISSUER.public,
        READER.public,
        serial=b"\x01" * 20,
        issuer="i" * 32,
        not_before="20200101000000Z",
        not_after="20480101000000Z",
        subject="s" * 32,
    ).compress()
    assert len(long) > 255
    assert bench.auth1(inline=long).sw == 0x9000
    assert bench.asked(ExchangeRequest()) == ((), 0)


def test_two_certificates_are_a_failure() -> None:
    bench = Bench()
    bench.reach(S.CERTIFICATE)
    assert bench.auth1(inline=certificate()).sw != 0x9000
    require_ended(bench)


def test_a_malformed_certificate_fails_where_it_is_sent() -> None:
    for inline in (False, True):
        bench = Bench()
        bench.reach(S.AUTH0_STANDARD)
        wrong = certificate()[:-1]
        response = bench.auth1(inline=wrong) if inline else bench.load_cert(wrong)
        assert response.sw != 0x9000
        require_ended(bench)


def wire_of(case: str, *, fast: bool, loaded: bool) -> list[bytes]:
    """Return the device's answers to AUTH0, [LOAD CERT] and AUTH1 of an untrusted reader."""
    group = OTHER_GROUP if case == "unknown group" else GROUP
    bench = Bench(
        groups=() if case == "no groups at all" else (GROUP,),
        issuer=None if case == "no issuer key" else ISSUER,
        user=case != "user absent",
    )
    bench.select()
    bench.auth0(fast=fast, group=group, policy=3 if case == "user absent" else 1)
    if loaded:
        untrusted = case in ("untrusted certificate", "unknown group", "no groups at all")
        bench.load_cert(certificate(STRANGER if untrusted else ISSUER))
    bench.auth1(key=STRANGER if case == "bad signature" else READER)
    after = bench.wire[2 if fast else 1 :]  # a cryptogram differs; its length is checked apart
    require_ended(bench)
    if fast:
        after.append(len(bench.wire[1]).to_bytes(2, "big"))
    return after


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_the_reason_of_distrust_does_not_show_on_the_wire(fast: bool, loaded: bool) -> None:
    cases = ["bad signature", "unknown group", "no groups at all", "user absent"]
    if loaded:
        cases += ["untrusted certificate", "no issuer key"]
    seen = {case: wire_of(case, fast=fast, loaded=loaded) for case in cases}
    assert all(answers == seen["bad signature"] for answers in seen.values())


def test_one_credential_serves_twenty_groups() -> None:
    groups = tuple(bytes((n,)) * 16 for n in range(20))
    bench = Bench(groups=groups)
    for group in groups:
        bench.select()
        bench.auth0(group=group)
        assert bench.auth1().sw == 0x9000
        assert bench.asked(ExchangeRequest(status=ReaderStatus.SECURE)) == ((), 0)
    assert [event.group_id for event in bench.applet.events] == [*groups]


def test_a_device_refuses_a_point_off_the_curve() -> None:
    bench = Bench()
    bench.select()
    data = bytearray(bench.auth0_command().to_bytes())
    data[10 + 2 + 64] ^= 1  # the last byte of y
    assert bench.send(command(Ins.AUTH0, bytes(data))).sw != 0x9000
    require_ended(bench)


def test_a_device_refuses_a_version_that_it_does_not_offer() -> None:
    bench = Bench()
    bench.select()
    assert bench.auth0(version=b"\x00\x09").sw != 0x9000
    require_ended(bench)


# --- fast and Kpersistent ---------------------------------------------------------------------


def cryptogram_opens(bench: Bench) -> bool:
    assert bench.context is not None
    keys = bench.context.fast(KPERSISTENT, CREDENTIAL.public.x)
    return open_once(keys.cryptogram, bench.answer.cryptogram) is not None


@pytest.mark.parametrize(
    ("options", "group", "policy", "opens"),
    [
        ({}, GROUP, 1, True),
        ({}, GROUP, 2, True),
        ({}, GROUP, 3, True),
        ({"user": False}, GROUP, 1, True),
        ({"user": False}, GROUP, 2, True),
        ({"user": False}, GROUP, 3, False),
        ({"stored": False}, GROUP, 1, False),
        ({"fast_enabled": False}, GROUP, 1, False),
        ({}, OTHER_GROUP, 1, False),
    ],
)
def test_a_cryptogram_is_real_only_for_a_known_reader_under_its_policy(
    options: dict[str, bool], group: bytes, policy: int, opens: bool
) -> None:
    bench = Bench(**options)  # type: ignore[arg-type]
    bench.select()
    assert bench.auth0(fast=True, group=group, policy=policy).sw == 0x9000
    assert len(bench.answer.cryptogram) == 64
    assert cryptogram_opens(bench) is opens


@pytest.mark.parametrize(
    ("user", "policy", "taken"),
    [(True, 1, True), (True, 3, True), (False, 1, True), (False, 2, True), (False, 3, False)],
)
def test_policy_3_needs_the_user_in_auth1(user: bool, policy: int, taken: bool) -> None:
    bench = Bench(user=user)
    bench.select()
    assert bench.auth0(policy=policy).sw == 0x9000
    assert (bench.auth1().sw == 0x9000) is taken


def test_an_exchange_after_a_decoy_cryptogram_fails() -> None:
    bench = Bench(stored=False)
    bench.select()
    bench.auth0(fast=True)
    assert bench.exchange(ExchangeRequest(status=ReaderStatus.UNSECURE)).sw != 0x9000
    assert not bench.applet.events
    require_ended(bench)


def test_a_fast_request_may_go_on_to_auth1_with_the_same_values() -> None:
    bench = Bench(stored=False)
    bench.select()
    bench.auth0(fast=True)
    assert bench.auth1().sw == 0x9000
    assert bench.context is not None
    assert bench.context.parameters == 1
    assert bench.asked(ExchangeRequest(status=ReaderStatus.SECURE)) == ((), 0)


def test_kpersistent_is_kept_only_when_the_reader_has_proved_its_keys() -> None:
    bench = Bench(stored=False)
    bench.reach(S.SECURED)
    assert bench.credential.kpersistent == {}
    bench.asked(ExchangeRequest())
    assert bench.context is not None
    expected = bench.context.persistent(bench.kdh, CREDENTIAL.public.x)
    assert bench.credential.kpersistent == {(GROUP, SUB): expected}


def test_a_wrong_first_exchange_leaves_the_old_kpersistent() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    assert bench.send(command(Ins.EXCHANGE, bytes(20))).sw != 0x9000
    assert bench.credential.kpersistent == {(GROUP, SUB): KPERSISTENT}


def test_a_fast_transaction_leaves_kpersistent_unchanged() -> None:
    bench = Bench()
    bench.reach(S.AUTH0_FAST)
    bench.asked(ExchangeRequest(status=ReaderStatus.SECURE))
    assert bench.credential.kpersistent == {(GROUP, SUB): KPERSISTENT}


# --- counters ---------------------------------------------------------------------------------


def by_hand(key: Secret, direction: int, counter: int, data: bytes) -> bytes:
    iv = direction.to_bytes(8, "big") + counter.to_bytes(4, "big")
    return AESGCM(key.reveal()).decrypt(iv, data, None)


def test_the_first_standard_exchange_is_reader_1_and_device_2() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    response = bench.exchange(ExchangeRequest())
    assert by_hand(bench.keys.exchange_device, 1, 2, response.data) == SUCCESS


def test_the_first_fast_exchange_is_reader_1_and_device_1() -> None:
    bench = Bench()
    bench.reach(S.AUTH0_FAST)
    response = bench.exchange(ExchangeRequest())
    assert bench.context is not None
    keys = bench.context.fast(KPERSISTENT, CREDENTIAL.public.x)
    assert by_hand(keys.exchange_device, 1, 1, response.data) == SUCCESS


def test_a_repeated_exchange_fails() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    assert bench.channel is not None
    request = command(Ins.EXCHANGE, bench.channel.seal(b""))
    assert bench.send(request).sw == 0x9000
    assert bench.send(request).sw != 0x9000
    require_ended(bench)


def test_a_skipped_exchange_fails() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    assert bench.channel is not None
    bench.channel.seal(b"")
    assert bench.exchange(ExchangeRequest()).sw != 0x9000
    require_ended(bench)


def test_a_channel_ends_when_its_counter_is_used_up() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    assert bench.channel is not None
    done = 0
    while (count := bench.channel.counters[0]) < 0xFFFF:
        sealed = bench.channel.seal(b"")
        response = bench.applet.command(Command(0x80, Ins.EXCHANGE, 0, 0, sealed, 256))
        if response.sw != 0x9000:
            break
        done = count
    assert done == 0xFFFD  # the AUTH1 response used the device's counter 1
    assert bench.applet.state is S.ENDED


# --- vendor extensions ------------------------------------------------------------------------


def test_extensions_of_both_sides_enter_the_keys() -> None:
    ours, theirs = (vendor_extension(b"\x01\x02\x03", bytes((0x80, 1, n))) for n in (1, 2))
    bench = Bench(extension=theirs)
    bench.select()
    bench.auth0(extension=ours)
    assert bench.answer.extension == theirs
    assert bench.context is not None
    assert bench.context.extensions == b"\xb1\x0a" + ours + b"\xb2\x0a" + theirs
    assert bench.auth1().sw == 0x9000
    assert bench.asked(ExchangeRequest()) == ((), 0)


# --- mailbox ----------------------------------------------------------------------------------


def mailbox_bench(data: bytes = b"old!", **options: bool) -> Bench:
    bench = Bench(mailbox=Mailbox(data=data, **options))
    bench.reach(S.SECURED)
    return bench


def content(bench: Bench) -> bytes:
    assert bench.credential.mailbox is not None
    return bench.credential.mailbox.data


def test_one_command_reads_the_old_and_writes_the_new() -> None:
    bench = mailbox_bench()
    request = ExchangeRequest(mailbox=(Write(0, b"new"), Read(0, 4), Set(3, 1, 0x3F)))
    assert bench.asked(request) == ((b"old!",), 0)
    assert content(bench) == b"new?"


def test_an_atomic_session_commits_when_it_is_closed() -> None:
    bench = mailbox_bench()
    first = ExchangeRequest(mailbox=(Write(0, b"new"),), keep_session=True)
    assert bench.asked(first) == ((), 0)
    assert content(bench) == b"old!"
    assert bench.asked(ExchangeRequest(notice=b"")) == ((), 0)  # keeps the session open
    closing = ExchangeRequest(mailbox=(Read(0, 4), Set(3, 1, 0x3F), Read(0, 4)))
    assert bench.asked(closing) == ((b"old!", b"old!"), 0)
    assert content(bench) == b"new?"


@pytest.mark.parametrize("end", ["field", "select", "control flow", "auth0", "final status"])
def test_an_atomic_session_that_is_not_closed_changes_nothing(end: str) -> None:
    bench = mailbox_bench()
    bench.asked(ExchangeRequest(mailbox=(Write(0, b"new"),), keep_session=True))
    if end == "field":
        bench.host.field_off()
    elif end == "select":
        bench.select()
    elif end == "control flow":
        bench.send(control_flow())
    elif end == "auth0":
        assert bench.send(bench.best(Ins.AUTH0)).sw != 0x9000
    else:
        bench.asked(ExchangeRequest(status=ReaderStatus.SECURE))
    assert content(bench) == b"old!"
    bench.reach(S.SECURED)
    assert bench.asked(ExchangeRequest(mailbox=())) == ((), 0)
    assert content(bench) == b"old!"


@pytest.mark.parametrize(
    "request_",
    [
        ExchangeRequest(mailbox=(Write(0, b"new"), Read(4, 1))),
        ExchangeRequest(mailbox=(Write(0, b"new"),), document_update=b"\x01"),
        ExchangeRequest(mailbox=(Write(0, b"new"),), notice=b"\x9f\x40\x00"),
        ExchangeRequest(mailbox=(Write(0, b"new"),), release_ursk=True),  # not on NFC
        ExchangeRequest(mailbox=(Write(0, b"new"), Write(3, b"xx")), status=0x0101),
        b"\xba\x04\x8a\x02\x00\x00",
        b"\xba\x03\x8c\x01",
    ],
)
def test_a_failed_request_is_told_under_protection_and_commits_nothing(
    request_: ExchangeRequest | bytes,
) -> None:
    bench = mailbox_bench()
    reads, result = bench.asked(request_)
    assert reads == ()
    assert result != 0
    assert content(bench) == b"old!"
    assert not bench.applet.events
    require_ended(bench)


def test_a_failure_in_an_atomic_session_drops_what_was_staged() -> None:
    bench = mailbox_bench()
    bench.asked(ExchangeRequest(mailbox=(Write(0, b"new"),), keep_session=True))
    assert bench.asked(ExchangeRequest(mailbox=(Read(9, 9),)))[1] != 0
    bench.reach(S.SECURED)
    bench.asked(ExchangeRequest(mailbox=()))
    assert content(bench) == b"old!"


def test_rights_are_enforced_on_the_wire() -> None:
    assert mailbox_bench(readable=False).asked(ExchangeRequest(mailbox=(Read(0, 1),)))[1]
    assert mailbox_bench(writable=False).asked(ExchangeRequest(mailbox=(Set(0, 1, 1),)))[1]


def test_a_credential_without_a_mailbox_refuses_mailbox_commands() -> None:
    bench = Bench()
    bench.reach(S.SECURED)
    assert bench.asked(ExchangeRequest(mailbox=()))[1] != 0
    require_ended(bench)


def test_auth1_tells_the_mailbox_bits_and_the_configured_part() -> None:
    bench = Bench(mailbox=Mailbox(data=b"abcd", subset=(1, 2), writable=False))
    bench.reach(S.SECURED)
    assert bench.payload.mailbox == b"bc"
    assert bench.payload.signaling == Signaling(0b11000)


# --- ranging secret ---------------------------------------------------------------------------


def test_the_ranging_secret_is_released_once_and_on_ble_only() -> None:
    bench = Bench(interface=Interface.BLE)
    bench.reach(S.SECURED)
    assert bench.asked(ExchangeRequest(release_ursk=True)) == ((), 0)
    assert bench.asked(ExchangeRequest(release_ursk=True))[1] != 0
    require_ended(bench)


# --- durable changes --------------------------------------------------------------------------


class Store:
    """Records what it is told to keep, and fails on demand."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.kept: list[str] = []

    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        self._keep("kpersistent")

    def save_mailbox(self, data: bytes) -> None:
        self._keep("mailbox")

    def _keep(self, what: str) -> None:
        if what in self.failing:
            raise StoreError("the disk is full")
        self.kept.append(what)


def test_changes_are_durable_before_the_reader_is_answered() -> None:
    store = Store()
    bench = Bench(store=store, mailbox=Mailbox(data=b"old!"))
    bench.reach(S.SECURED)
    assert store.kept == []
    bench.asked(ExchangeRequest(mailbox=(Write(0, b"new"),)))
    assert store.kept == ["kpersistent", "mailbox"]


def test_a_store_that_cannot_keep_kpersistent_fails_the_transaction() -> None:
    bench = Bench(store=Store("kpersistent"), mailbox=Mailbox(data=b"old!"))
    bench.reach(S.SECURED)
    response = bench.exchange(ExchangeRequest(mailbox=(Write(0, b"new"),), status=0x0100))
    assert response.sw != 0x9000
    assert response.data == b""
    assert bench.credential.kpersistent == {(GROUP, SUB): KPERSISTENT}
    assert content(bench) == b"old!"
    assert not bench.applet.events
    require_ended(bench)


def test_a_store_that_cannot_keep_the_mailbox_fails_the_transaction() -> None:
    bench = Bench(store=Store("mailbox"), mailbox=Mailbox(data=b"old!"))
    bench.reach(S.SECURED)
    response = bench.exchange(ExchangeRequest(mailbox=(Write(0, b"new"),), status=0x0100))
    assert response.sw != 0x9000
    assert response.data == b""
    assert content(bench) == b"old!"
    assert not bench.applet.events
    require_ended(bench)


# --- the vehicle profile ----------------------------------------------------------------------


def test_the_vehicle_profile_answers_on_its_own_identifier_only() -> None:
    bench = Bench(profile=VEHICLE)
    assert bench.send(select_command(ALIRO.access_aid)).sw == 0x6A82
    assert bench.select().data[4:11] == VEHICLE.access_aid
    bench.auth0()
    assert bench.auth1().sw == 0x9000


def test_the_vehicle_profile_takes_shortest_lengths_only() -> None:
    for profile, taken in ((ALIRO, True), (VEHICLE, False)):
        bench = Bench(profile=profile)
        bench.select()
        data = bench.auth0_command().to_bytes()
        longer = data.replace(b"\x41\x01\x00", b"\x41\x81\x01\x00", 1)
        assert (bench.send(command(Ins.AUTH0, longer)).sw == 0x9000) is taken
