"""Whole transactions, both roles, end to end: every flow in both profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dkey.access.applet import AppletHost
from dkey.access.certificate import ReaderCertificate
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.device import AccessApplet
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.exchange import ExchangeRequest, Read, ReaderStatus, Set, Write
from dkey.access.mailbox import Mailbox
from dkey.access.messages import Ins, vendor_extension
from dkey.access.profile import ALIRO, VEHICLE, Interface, Profile
from dkey.access.reader import AccessReader
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.vault import MemoryVault
from dkey.errors import AuthenticationError
from dkey.link.driver import run_blocking
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from dkey.access.session import Session

READER, ISSUER, CREDENTIAL = (PrivateKey.from_scalar(bytes(31) + bytes((n,))) for n in (2, 3, 4))
GROUP, SUB, OTHER_SUB = (bytes((n,)) * 16 for n in (1, 2, 3))
STANDARD = ["SELECT", "AUTH0", "AUTH1", "EXCHANGE"]
CERTIFIED = ["SELECT", "AUTH0", "LOAD_CERT", "AUTH1", "EXCHANGE"]
FAST = ["SELECT", "AUTH0", "EXCHANGE"]

both_profiles = pytest.mark.parametrize("profile", [ALIRO, VEHICLE], ids=lambda p: p.name)
both_identities = pytest.mark.parametrize("certified", [False, True], ids=["key", "certificate"])


class Pair:
    """A reader and a device that keep what they learn from one transaction to the next."""

    def __init__(
        self,
        profile: Profile,
        *,
        certified: bool = False,
        interface: Interface = Interface.NFC,
        mailbox: Mailbox | None = None,
        extensions: tuple[bytes, bytes] = (b"", b""),
        seed: str = "pair",
    ) -> None:
        certificate = ReaderCertificate.issue(
            MemoryVault(i=ISSUER), "i", ISSUER.public, READER.public
        ).compress()
        self.issuer = ISSUER.public if certified else None
        self.credential = DeviceCredential(
            profile=profile,
            vault=MemoryVault(c=CREDENTIAL),
            key="c",
            readers={
                GROUP: TrustedReader(
                    group_id=GROUP, public_key=READER.public, issuer_key=self.issuer
                )
            },
            mailbox=mailbox,
        )
        self.applet = AccessApplet(
            self.credential,
            SeededEntropy(f"{seed} device"),
            interface=interface,
            extension=extensions[1],
        )
        self.host = AppletHost([self.applet])
        self.directory = MemoryDirectory(
            [EnrolledCredential(name="phone", public_key=CREDENTIAL.public)]
        )
        self.readers = {
            sub: AccessReader(
                ReaderIdentity(
                    profile=profile,
                    group_id=GROUP,
                    sub_id=sub,
                    vault=MemoryVault(r=READER),
                    key="r",
                    certificate=certificate if certified else b"",
                    issuer_key=self.issuer,
                ),
                self.directory,
                SeededEntropy(f"{seed} reader {sub.hex()}"),
                interface=interface,
                extension=extensions[0],
            )
            for sub in (SUB, OTHER_SUB)
        }
        self.log: list[tuple[bytes, bytes]] = []

    def answer(self, apdu: bytes) -> bytes:
        response = self.host.answer(apdu)
        self.log.append((apdu, response))
        return response

    def transact(
        self,
        flow: Flow = Flow.AUTO,
        *requests: ExchangeRequest,
        sub: bytes = SUB,
        keep: bool = True,
    ) -> tuple[Session, list[tuple[bytes, ...]]]:
        """Run one transaction to its end; the reader stores Kpersistent if told to."""
        self.log.clear()
        session = run_blocking(self.readers[sub].authenticate(flow), self.answer)
        reads = [run_blocking(session.exchange(each), self.answer) for each in requests]
        run_blocking(session.complete(ReaderStatus.UNSECURE), self.answer)
        if keep and session.kpersistent is not None:
            self.directory.store_kpersistent(CREDENTIAL.public.x, session.kpersistent)
        self.host.field_off()
        return session, reads

    @property
    def sent(self) -> list[str]:
        return [Ins(apdu[1]).name for apdu, _ in self.log if apdu[1] != Ins.GET_RESPONSE]


def require_agreement(pair: Pair, session: Session) -> None:
    event = pair.applet.events[-1]
    ours, theirs = session.keys, event.keys
    assert ours.exchange_reader == theirs.exchange_reader
    assert ours.exchange_device == theirs.exchange_device
    assert ours.ble == theirs.ble
    assert ours.ursk == theirs.ursk
    assert ours.step_up == theirs.step_up
    assert session.kpersistent == event.kpersistent
    assert event.fast is (session.flow is Flow.FAST)


@both_profiles
@both_identities
@pytest.mark.parametrize("interface", Interface)
def test_standard_then_fast(profile: Profile, certified: bool, interface: Interface) -> None:
    pair = Pair(profile, certified=certified, interface=interface)
    session, _ = pair.transact()
    assert session.flow is Flow.STANDARD
    assert pair.sent == (CERTIFIED if certified else STANDARD)
    require_agreement(pair, session)
    session, _ = pair.transact()
    assert session.flow is Flow.FAST
    assert pair.sent == FAST
    require_agreement(pair, session)


@both_profiles
@both_identities
def test_a_device_that_lost_its_key_falls_back_and_is_fast_again_after(
    profile: Profile, certified: bool
) -> None:
    pair = Pair(profile, certified=certified)
    pair.transact()
    pair.credential.kpersistent.clear()
    session, _ = pair.transact()
    assert session.flow is Flow.STANDARD
    assert pair.sent == (CERTIFIED if certified else STANDARD)
    require_agreement(pair, session)
    assert pair.transact()[0].flow is Flow.FAST


@both_profiles
def test_a_reader_that_did_not_keep_the_key_falls_back_and_is_fast_again_after(
    profile: Profile,
) -> None:
    pair = Pair(profile)
    pair.transact()
    pair.transact(Flow.STANDARD, keep=False)  # now only the device has the newer one
    with pytest.raises(AuthenticationError):
        pair.transact(Flow.FAST)
    session, _ = pair.transact()
    assert session.flow is Flow.STANDARD
    require_agreement(pair, session)
    assert pair.transact()[0].flow is Flow.FAST


@both_profiles
def test_every_standard_transaction_replaces_kpersistent_on_both_sides(profile: Profile) -> None:
    pair = Pair(profile)
    seen = set()
    for _ in range(3):
        session, _ = pair.transact(Flow.STANDARD)
        (stored,) = pair.directory.fast_candidates(9)
        assert stored.kpersistent == session.kpersistent
        assert pair.credential.kpersistent[GROUP, SUB] == session.kpersistent
        assert session.kpersistent is not None
        seen.add(session.kpersistent.reveal())
    assert len(seen) == 3


@both_profiles
def test_fast_transactions_leave_kpersistent_as_it_is(profile: Profile) -> None:
    pair = Pair(profile)
    session, _ = pair.transact()
    for _ in range(3):
        assert pair.transact()[0].flow is Flow.FAST
    assert pair.credential.kpersistent == {(GROUP, SUB): session.kpersistent}


@both_profiles
def test_the_device_keeps_one_kpersistent_for_each_reader(profile: Profile) -> None:
    pair = Pair(profile)
    pair.transact()
    pair.transact(sub=OTHER_SUB)
    kept = pair.credential.kpersistent
    assert {*kept} == {(GROUP, SUB), (GROUP, OTHER_SUB)}
    assert kept[GROUP, SUB] != kept[GROUP, OTHER_SUB]


@both_profiles
@both_identities
def test_the_mailbox_is_used_in_both_flows(profile: Profile, certified: bool) -> None:
    mailbox = Mailbox(data=bytes(600), subset=(0, 4))
    pair = Pair(profile, certified=certified, mailbox=mailbox)
    write = ExchangeRequest(mailbox=(Write(0, b"note"), Set(4, 500, 0x5A)), keep_session=True)
    close = ExchangeRequest(mailbox=(Read(0, 4),))
    session, reads = pair.transact(Flow.STANDARD, write, close)
    assert session.mailbox == bytes(4)
    assert reads == [(), (bytes(4),)]
    session, reads = pair.transact(Flow.FAST, ExchangeRequest(mailbox=(Read(0, 600),)))
    assert reads == [(b"note" + b"\x5a" * 500 + bytes(96),)]
    assert session.signaling.value == 0b111000
    session, _ = pair.transact(Flow.STANDARD)
    assert session.mailbox == b"note"


@both_profiles
def test_extensions_of_both_sides_pass_and_the_device_s_reaches_the_reader(
    profile: Profile,
) -> None:
    ours, theirs = (vendor_extension(b"\x01\x02\x03", bytes((0x80, 1, n))) for n in (1, 2))
    pair = Pair(profile, extensions=(ours, theirs))
    for flow in (Flow.STANDARD, Flow.FAST):
        session, _ = pair.transact(flow)
        assert session.extension == theirs
        require_agreement(pair, session)


def test_a_changed_extension_gives_other_keys() -> None:
    pair = Pair(ALIRO, extensions=(b"", vendor_extension(b"\x01\x02\x03", b"\x80\x01\x02")))

    def swap(apdu: bytes) -> bytes:
        return pair.host.answer(apdu).replace(b"\x80\x01\x02\x90\x00", b"\x80\x01\x03\x90\x00")

    with pytest.raises(AuthenticationError):
        run_blocking(pair.readers[SUB].authenticate(), swap)


def test_the_profiles_do_not_answer_each_other() -> None:
    for one, other in ((ALIRO, VEHICLE), (VEHICLE, ALIRO)):
        device, reader = Pair(one), Pair(other)
        with pytest.raises(Exception, match="6A82"):
            run_blocking(reader.readers[SUB].authenticate(), device.answer)


def test_the_same_seeds_give_the_same_bytes_up_to_the_first_signature() -> None:
    runs = []
    for _ in range(2):
        pair = Pair(ALIRO, seed="again")
        pair.transact()
        runs.append([pair.log[:2], len(pair.log)])
    assert runs[0] == runs[1]
    other = Pair(ALIRO, seed="another")
    other.transact()
    assert other.log[1] != runs[0][0][1]  # type: ignore[index]
