"""The reader role against a device whose answers a test may replace: flows and failure process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import pytest

from dkey.access.applet import AppletHost
from dkey.access.credential import DeviceCredential, TrustedReader, key_slot
from dkey.access.device import AccessApplet
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.exchange import ExchangeRequest, Read, ReaderStatus, Write
from dkey.access.mailbox import Mailbox
from dkey.access.messages import Auth0Command, Auth1Command, Auth1Payload, Ins, Signaling
from dkey.access.profile import ALIRO
from dkey.access.reader import AccessReader
from dkey.codec.apdu import Command
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import (
    AuthenticationError,
    EntropyError,
    LinkError,
    LinkReason,
    RemoteFault,
    StatusError,
    WireError,
)
from dkey.link.driver import run_blocking
from dkey.testing import ScriptedEntropy, SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dkey.access.session import Session
    from dkey.crypto.entropy import Entropy

T = TypeVar("T")

READER, CREDENTIAL, OTHER = (PrivateKey.from_scalar(bytes(31) + bytes((n,))) for n in (2, 3, 4))
GROUP, SUB = bytes(range(16)), bytes(range(16, 32))
KPERSISTENT = Secret(b"\x4b" * 32)
A5 = "A508800200005C020100"
FCI = "6F158409A000000909ACCE5501" + A5 + "9000"


class Bench:
    """A reader and a device, and what passes between them."""

    def __init__(
        self,
        *,
        stored: bool = True,
        device_stored: bool | None = None,
        enrolled: bool = True,
        trusted: bool = True,
        want_public_key: bool = True,
        mailbox: Mailbox | None = None,
        entropy: Entropy | None = None,
        reader_key: PrivateKey = READER,
    ) -> None:
        group = TrustedReader(group_id=GROUP, public_key=READER.public)
        kept = stored if device_stored is None else device_stored
        self.credential = DeviceCredential(
            profile=ALIRO,
            vault=MemoryVault(c=CREDENTIAL),
            key="c",
            readers={GROUP: group} if trusted else {},
            kpersistent={(GROUP, SUB): KPERSISTENT} if kept else {},
            mailbox=mailbox,
        )
        self.applet = AccessApplet(self.credential, SeededEntropy("device"))
        self.host = AppletHost([self.applet])
        known = EnrolledCredential(
            name="phone",
            public_key=CREDENTIAL.public,
            kpersistent=KPERSISTENT if stored else None,
        )
        self.identity = ReaderIdentity(
            profile=ALIRO,
            group_id=GROUP,
            sub_id=SUB,
            vault=MemoryVault(r=reader_key),
            key="r",
        )
        self.reader = AccessReader(
            self.identity,
            MemoryDirectory([known] if enrolled else []),
            entropy or SeededEntropy("reader"),
            want_public_key=want_public_key,
        )
        self.changes: dict[int, Callable[[bytes], bytes]] = {}
        self.log: list[tuple[bytes, bytes]] = []

    def answer(self, command: bytes) -> bytes:
        change = self.changes.get(command[1], lambda raw: raw)
        response = change(self.host.answer(command))
        self.log.append((command, response))
        return response

    def run(self, procedure: Generator[bytes, bytes, T]) -> T:
        return run_blocking(procedure, self.answer)

    def open(self, flow: Flow = Flow.AUTO) -> Session:
        return self.run(self.reader.authenticate(flow))

    @property
    def sent(self) -> list[str]:
        """The instructions that were sent, by name."""
        return [Ins(command[1]).name for command, _ in self.log]


def always(response: str) -> Callable[[bytes], bytes]:
    return lambda _raw: bytes.fromhex(response)


# --- flows ------------------------------------------------------------------------------------


def test_a_stored_key_makes_a_fast_transaction() -> None:
    bench = Bench()
    session = bench.open()
    bench.run(session.complete(ReaderStatus.UNSECURE))
    assert session.flow is Flow.FAST
    assert session.credential is not None
    assert session.credential.name == "phone"
    assert session.kpersistent is None
    assert bench.sent == ["SELECT", "AUTH0", "EXCHANGE"]


def test_no_stored_key_makes_a_standard_transaction() -> None:
    bench = Bench(stored=False)
    session = bench.open()
    bench.run(session.complete(ReaderStatus.UNSECURE))
    assert session.flow is Flow.STANDARD
    assert bench.sent == ["SELECT", "AUTH0", "AUTH1", "EXCHANGE"]
    assert session.kpersistent == bench.credential.kpersistent[GROUP, SUB]


def test_no_match_falls_back_to_standard_with_the_values_of_the_same_auth0() -> None:
    bench = Bench(device_stored=False)
    session = bench.open()
    bench.run(session.complete(ReaderStatus.SECURE))
    assert session.flow is Flow.STANDARD
    assert bench.sent == ["SELECT", "AUTH0", "AUTH1", "EXCHANGE"]
    sent = Auth0Command.parse(Command.parse(bench.log[1][0]).data)
    assert sent.fast  # the parameters of the one AUTH0 stay in the key schedule of both sides
    assert bench.applet.events[0].keys.ursk == session.keys.ursk


def test_fast_only_ends_when_nothing_matches() -> None:
    bench = Bench(device_stored=False)
    with pytest.raises(AuthenticationError):
        bench.open(Flow.FAST)
    assert bench.sent == ["SELECT", "AUTH0", "CONTROL_FLOW"]


def test_standard_only_ignores_the_stored_key() -> None:
    bench = Bench()
    session = bench.open(Flow.STANDARD)
    assert session.flow is Flow.STANDARD
    assert not Auth0Command.parse(Command.parse(bench.log[1][0]).data).fast


def test_every_transaction_has_fresh_values() -> None:
    bench = Bench()
    for _ in range(3):
        bench.run(bench.open().complete(ReaderStatus.SECURE))
    sent = [Auth0Command.parse(Command.parse(c).data) for c, _ in bench.log if c[1] == Ins.AUTH0]
    assert len({each.reader_ephemeral for each in sent}) == 3
    assert len({each.transaction_id for each in sent}) == 3


def test_a_random_source_that_repeats_a_transaction_identifier_is_noticed() -> None:
    scripted = ScriptedEntropy([bytes(31) + b"\x09", bytes(31) + b"\x0a"], [bytes(16)] * 2)
    bench = Bench(entropy=scripted)
    bench.open()
    with pytest.raises(EntropyError):
        bench.open()


@pytest.mark.parametrize("want", [False, True])
def test_the_device_is_identified_by_key_or_key_slot(want: bool) -> None:
    bench = Bench(stored=False, want_public_key=want)
    session = bench.open()
    auth1 = next(c for c, _ in bench.log if c[1] == Ins.AUTH1)
    assert Auth1Command.parse(Command.parse(auth1).data).want_public_key is want
    assert session.credential is not None
    assert session.public_key == CREDENTIAL.public
    bench.run(session.complete(ReaderStatus.SECURE))


def test_a_key_that_is_not_enrolled_is_named_but_is_no_credential() -> None:
    bench = Bench(enrolled=False)
    session = bench.open()
    assert session.credential is None
    assert session.public_key == CREDENTIAL.public
    bench.run(session.fail(ReaderStatus.KEY_NOT_FOUND))
    assert bench.applet.events[0].status == ReaderStatus.KEY_NOT_FOUND


def test_an_unknown_key_slot_names_no_key_and_gives_nothing_to_store() -> None:
    bench = Bench(enrolled=False, want_public_key=False)
    session = bench.open()
    assert (session.credential, session.public_key, session.kpersistent) == (None, None, None)


def test_the_directory_finds_by_key_slot() -> None:
    known = EnrolledCredential(name="phone", public_key=CREDENTIAL.public)
    assert MemoryDirectory([known]).by_key_slot(key_slot(CREDENTIAL.public)) is known
    assert MemoryDirectory([known]).by_key_slot(bytes(8)) is None


def test_the_match_is_found_among_many_candidates() -> None:
    bench = Bench()
    keys = [PrivateKey.from_scalar(bytes(30) + b"\1" + bytes((n,))).public for n in range(20)]
    known = [
        EnrolledCredential(name=str(n), public_key=key, kpersistent=Secret(bytes((n,)) * 32))
        for n, key in enumerate(keys)
    ]
    mine = EnrolledCredential(name="phone", public_key=CREDENTIAL.public, kpersistent=KPERSISTENT)
    bench.reader.directory = MemoryDirectory([*known[:10], mine, *known[10:]])
    session = bench.open(Flow.FAST)
    assert session.credential is not None
    assert session.credential.name == "phone"


def test_reads_and_writes_pass_the_channel() -> None:
    bench = Bench(mailbox=Mailbox(data=b"old!", subset=(0, 2)), stored=False)
    session = bench.open()
    assert session.mailbox == b"ol"
    request = ExchangeRequest(mailbox=(Read(0, 4), Write(0, b"new"), Read(3, 1)))
    assert bench.run(session.exchange(request)) == (b"old!", b"!")
    assert bench.credential.mailbox is not None
    assert bench.credential.mailbox.data == b"new!"


def test_a_completed_session_sends_nothing_more() -> None:
    bench = Bench()
    session = bench.open()
    bench.run(session.complete(ReaderStatus.SECURE))
    count = len(bench.log)
    with pytest.raises(AuthenticationError):
        bench.run(session.exchange(ExchangeRequest()))
    assert len(bench.log) == count


def test_a_link_failure_reaches_the_caller_unchanged() -> None:
    bench = Bench()

    def torn(_command: bytes) -> bytes:
        raise LinkError(LinkReason.LOST, "torn away")

    with pytest.raises(LinkError) as caught:
        run_blocking(bench.reader.authenticate(), torn)
    assert caught.value.reason is LinkReason.LOST


# --- failure process: no key yet --------------------------------------------------------------


@pytest.mark.parametrize("ins", [Ins.AUTH0, Ins.AUTH1])
def test_an_error_status_before_keys_is_followed_by_control_flow(ins: Ins) -> None:
    bench = Bench(stored=False)
    bench.changes[ins] = always("6985")
    with pytest.raises(StatusError) as caught:
        bench.open()
    assert (caught.value.command, caught.value.status) == (ins.name, 0x6985)
    assert bench.sent[-2:] == [ins.name, "CONTROL_FLOW"]
    assert bench.log[-1][0].hex() == "803c000006410100420100"


def test_a_select_that_is_not_answered_9000_is_a_status_error() -> None:
    bench = Bench()
    bench.changes[Ins.SELECT] = always("6A82")
    with pytest.raises(StatusError) as caught:
        bench.open()
    assert caught.value.status == 0x6A82


def test_a_refused_certificate_is_followed_by_control_flow() -> None:
    bench = Bench(stored=False)
    bench.reader.identity = replace(bench.identity, certificate=bytes(100))
    with pytest.raises(StatusError) as caught:
        bench.open()
    assert caught.value.command == "LOAD CERT"
    assert bench.sent[-2:] == ["LOAD_CERT", "CONTROL_FLOW"]


def test_data_in_the_answer_to_load_cert_is_a_failure() -> None:
    bench = Bench(stored=False)
    bench.reader.identity = replace(bench.identity, certificate=bytes(100))
    bench.changes[Ins.LOAD_CERT] = always("AA9000")
    with pytest.raises(WireError):
        bench.open()
    assert bench.sent[-1] == "CONTROL_FLOW"


@pytest.mark.parametrize("ins", [Ins.AUTH0, Ins.AUTH1])
def test_a_cut_answer_before_keys_is_followed_by_control_flow(ins: Ins) -> None:
    bench = Bench(stored=False)
    bench.changes[ins] = lambda raw: raw[:1]
    with pytest.raises(WireError):
        bench.open()
    assert bench.sent[-1] == "CONTROL_FLOW"


def test_the_device_does_not_know_the_reader() -> None:
    for options in ({"trusted": False}, {"reader_key": OTHER}):
        bench = Bench(stored=False, **options)  # type: ignore[arg-type]
        with pytest.raises(StatusError) as caught:
            bench.open()
        assert caught.value.command == "AUTH1"
        assert bench.sent[-1] == "CONTROL_FLOW"


@pytest.mark.parametrize(
    "fci",
    [
        "9000",
        "6F009000",
        FCI.replace("6F15", "6F16"),
        FCI.replace("5C020100", "5C000100"),
        FCI.replace("ACCE5501", "ACCE5502"),
        FCI.replace("9000", "009000"),
    ],
)
def test_a_malformed_select_response_is_followed_by_control_flow(fci: str) -> None:
    bench = Bench()
    bench.changes[Ins.SELECT] = always(fci)
    with pytest.raises(WireError):
        bench.open()
    assert bench.sent == ["SELECT", "CONTROL_FLOW"]
    assert bench.log[-1][0][-1] == 0


def test_no_common_version_is_told_with_reason_27() -> None:
    bench = Bench()
    bench.changes[Ins.SELECT] = always(FCI.replace("5C020100", "5C020009"))
    with pytest.raises(WireError):
        bench.open()
    assert bench.log[-1][0].hex() == "803c000006410100420127"


@pytest.mark.parametrize("listed", ["01000009", "02000100", "03000200010000090008"])
def test_version_0100_is_chosen_wherever_it_stands(listed: str) -> None:
    bench = Bench()
    inner = "80020000" + f"5C{len(listed) // 2:02X}{listed}"
    a5 = f"A5{len(inner) // 2:02X}{inner}"
    body = "8409A000000909ACCE5501" + a5
    bench.changes[Ins.SELECT] = always(f"6F{len(body) // 2:02X}{body}9000")
    bench.changes[Ins.AUTH0] = always("6985")
    with pytest.raises(StatusError):
        bench.open()
    assert Auth0Command.parse(Command.parse(bench.log[1][0]).data).version == b"\x01\x00"


# --- AUTH0 answers ----------------------------------------------------------------------------


def test_a_cryptogram_that_was_asked_for_must_be_there() -> None:
    bench = Bench()
    bench.changes[Ins.AUTH0] = lambda raw: raw[:67] + b"\x90\x00"
    with pytest.raises(WireError):
        bench.open()
    assert bench.sent[-1] == "CONTROL_FLOW"


def test_a_cryptogram_that_was_not_asked_for_is_a_failure() -> None:
    bench = Bench(stored=False)
    bench.changes[Ins.AUTH0] = lambda raw: raw[:-2] + b"\x9d\x40" + bytes(64) + b"\x90\x00"
    with pytest.raises(WireError):
        bench.open()
    assert bench.sent[-1] == "CONTROL_FLOW"


@pytest.mark.parametrize("at", [2, 10, 66])
def test_a_point_off_the_curve_is_a_failure(at: int) -> None:
    bench = Bench()

    def flip(raw: bytes) -> bytes:
        return raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :]

    bench.changes[Ins.AUTH0] = flip
    with pytest.raises(RemoteFault):
        bench.open(Flow.FAST)
    assert bench.sent == ["SELECT", "AUTH0", "CONTROL_FLOW"]


def test_the_readers_own_key_sent_back_is_a_failure() -> None:
    bench = Bench(stored=False)

    def reflect(_raw: bytes) -> bytes:
        command = Auth0Command.parse(Command.parse(last[0]).data)
        return b"\x86\x41" + command.reader_ephemeral + b"\x90\x00"

    last: list[bytes] = []
    bench.changes[Ins.AUTH0] = reflect

    def answer(command: bytes) -> bytes:
        last[:] = [command]
        return bench.answer(command)

    with pytest.raises(AuthenticationError):
        run_blocking(bench.reader.authenticate(), answer)
    assert Command.parse(last[0]).ins == Ins.CONTROL_FLOW


# --- failure process: keys are there ----------------------------------------------------------


def plain(
    identity: bytes = b"\x5a\x41" + CREDENTIAL.public.point,
    signature: bytes = b"\x9e\x40" + bytes(64),
    bitmap: bytes = b"\x5e\x02\x00\x00",
) -> bytes:
    return identity + signature + bitmap


SLOT = b"\x4e\x08" + key_slot(CREDENTIAL.public)
OFF_CURVE = b"\x5a\x41\x04" + bytes(63) + b"\x01"


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (plain(), ReaderStatus.BAD_DEVICE_SIGNATURE),
        (plain(signature=b""), ReaderStatus.NO_SIGNATURE),
        (plain(identity=b""), ReaderStatus.NO_PUBLIC_KEY),
        (plain(identity=SLOT), ReaderStatus.NO_PUBLIC_KEY),
        (plain(identity=OFF_CURVE), ReaderStatus.BAD_CONTENT),
        (plain(bitmap=b""), ReaderStatus.BAD_FORMAT),
        (plain(bitmap=b"\x5e\x01\x00"), ReaderStatus.BAD_FORMAT),
        (b"\xff", ReaderStatus.BAD_FORMAT),
    ],
)
def test_a_bad_auth1_payload_is_told_under_protection(
    payload: bytes, status: ReaderStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(stored=False)
    monkeypatch.setattr(Auth1Payload, "to_bytes", lambda _self: payload)
    with pytest.raises(RemoteFault):
        bench.open()
    assert bench.sent == ["SELECT", "AUTH0", "AUTH1", "EXCHANGE"]
    assert bench.applet.events[0].status == status


def test_a_key_slot_that_was_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(stored=False, want_public_key=False)
    monkeypatch.setattr(Auth1Payload, "to_bytes", lambda _self: plain())
    with pytest.raises(RemoteFault):
        bench.open()
    assert bench.applet.events[0].status == ReaderStatus.NO_KEY_SLOT


def test_a_proof_by_another_key_than_the_enrolled_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(stored=False)
    original = Auth1Payload.to_bytes
    named = OTHER.public.point
    monkeypatch.setattr(
        Auth1Payload, "to_bytes", lambda self: original(replace(self, public_key=named))
    )
    with pytest.raises(AuthenticationError):
        bench.open()
    assert bench.applet.events[0].status == ReaderStatus.BAD_DEVICE_SIGNATURE


def test_an_auth1_answer_that_does_not_verify_is_told_under_protection() -> None:
    bench = Bench(stored=False)
    bench.changes[Ins.AUTH1] = lambda raw: bytes((raw[0] ^ 1,)) + raw[1:]
    with pytest.raises(AuthenticationError):
        bench.open()
    assert bench.sent == ["SELECT", "AUTH0", "AUTH1", "EXCHANGE"]
    assert bench.applet.events[0].status == ReaderStatus.BAD_CONTENT


def test_a_device_that_refuses_the_notice_of_failure_gets_control_flow() -> None:
    bench = Bench(stored=False)
    bench.changes[Ins.AUTH1] = lambda raw: bytes((raw[0] ^ 1,)) + raw[1:]
    bench.changes[Ins.EXCHANGE] = always("6982")
    with pytest.raises(AuthenticationError):
        bench.open()
    assert bench.sent[-2:] == ["EXCHANGE", "CONTROL_FLOW"]


def test_failing_a_session_tells_the_status_under_protection() -> None:
    for stored in (False, True):
        bench = Bench(stored=stored)
        session = bench.open()
        bench.run(session.exchange(ExchangeRequest()))
        bench.run(session.fail(ReaderStatus.ACCESS_RIGHTS))
        assert bench.sent[-2:] == ["EXCHANGE", "EXCHANGE"]
        assert bench.applet.events[0].status == ReaderStatus.ACCESS_RIGHTS


def test_an_error_status_to_exchange_is_followed_by_control_flow() -> None:
    bench = Bench()
    session = bench.open()
    bench.changes[Ins.EXCHANGE] = always("6982")
    with pytest.raises(StatusError):
        bench.run(session.complete(ReaderStatus.SECURE))
    assert bench.sent[-2:] == ["EXCHANGE", "CONTROL_FLOW"]


def test_a_refused_request_is_followed_by_control_flow_and_no_more() -> None:
    bench = Bench()
    session = bench.open()
    with pytest.raises(RemoteFault):
        bench.run(session.exchange(ExchangeRequest(mailbox=(Read(0, 1),))))
    assert bench.sent[-2:] == ["EXCHANGE", "CONTROL_FLOW"]
    with pytest.raises(AuthenticationError):
        bench.run(session.exchange(ExchangeRequest()))


def test_an_exchange_answer_that_does_not_verify_is_followed_by_control_flow() -> None:
    bench = Bench()
    session = bench.open()
    bench.changes[Ins.EXCHANGE] = lambda raw: bytes((raw[0] ^ 1,)) + raw[1:]
    with pytest.raises(AuthenticationError):
        bench.run(session.complete(ReaderStatus.SECURE))
    assert bench.sent[-2:] == ["EXCHANGE", "CONTROL_FLOW"]


# --- APDU layer -------------------------------------------------------------------------------

BIG_A5 = "A513800200005C0201007F660802020400" + "02020400"


def big_fci(a5: str = BIG_A5) -> str:
    body = "8409A000000909ACCE5501" + a5
    return f"6F{len(body) // 2:02X}{body}9000"


def lengths(bench: Bench, ins: Ins) -> list[int]:
    return [len(command) for command, _ in bench.log if command[1] == ins]


@pytest.mark.parametrize("extended", [False, True])
def test_extended_lengths_are_used_only_where_the_device_offers_them(extended: bool) -> None:
    bench = Bench(stored=False)
    bench.reader.identity = replace(bench.identity, certificate=b"\x30" * 280)
    bench.changes[Ins.LOAD_CERT] = always("9000")
    if extended:
        bench.changes[Ins.SELECT] = always(big_fci())
    with pytest.raises(RemoteFault):
        bench.open()
    assert lengths(bench, Ins.LOAD_CERT) == ([289] if extended else [260, 31])


@pytest.mark.parametrize("sizes", ["02010A02020400", "020200020200", "0202040003020400"])
def test_malformed_extended_lengths_are_a_failure(sizes: str) -> None:
    inner = f"800200005C0201007F66{len(sizes) // 2:02X}{sizes}"
    bench = Bench()
    bench.changes[Ins.SELECT] = always(big_fci(f"A5{len(inner) // 2:02X}{inner}"))
    with pytest.raises(WireError):
        bench.open()
    assert bench.sent == ["SELECT", "CONTROL_FLOW"]


def test_a_device_that_answers_in_parts_is_understood() -> None:
    bench = Bench(stored=False)
    rest: list[bytes] = []

    def answer(command: bytes) -> bytes:
        if command[1] == Ins.GET_RESPONSE:
            assert command[0] == 0x00
            data = rest.pop()
        else:
            data = bench.host.answer(command)
        if len(data) <= 34:
            return data
        rest.append(data[32:])
        return data[:32] + bytes((0x61, min(len(data) - 34, 255)))

    session = run_blocking(bench.reader.authenticate(), answer)
    run_blocking(session.complete(ReaderStatus.SECURE), answer)
    assert bench.applet.events[0].status == ReaderStatus.SECURE


def test_a_device_that_corrects_le_is_understood() -> None:
    bench = Bench(stored=False)
    asked: list[bytes] = []

    def answer(command: bytes) -> bytes:
        asked.append(command)
        if command[1] == Ins.AUTH0 and command[-1] == 0:
            return bytes.fromhex("6C43")
        return bench.host.answer(command)

    session = run_blocking(bench.reader.authenticate(), answer)
    assert session.flow is Flow.STANDARD
    assert asked[2] == asked[1][:-1] + b"\x43"


@pytest.mark.parametrize("endless", ["6C43", "6100", "AA" * 256 + "6100"])
def test_a_device_that_never_ends_its_answer_is_a_failure(endless: str) -> None:
    bench = Bench(stored=False)
    bench.changes[Ins.AUTH0] = always(endless)
    bench.changes[Ins.GET_RESPONSE] = always(endless)
    with pytest.raises(WireError):
        bench.open()
    assert bench.sent[-1] == "CONTROL_FLOW"
    assert len(bench.log) < 40


def test_the_signaling_bitmap_of_both_flows_reaches_the_caller() -> None:
    for stored in (False, True):
        bench = Bench(stored=stored, mailbox=Mailbox(data=b"\x01"))
        assert bench.open().signaling == Signaling(0b111000)
