"""Owner pairing, both ends: they agree or nothing happens, and a guess costs a try."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkey.access.applet import AppletHost
from dkey.codec import tlv
from dkey.codec.apdu import Command
from dkey.codec.ble import MessageType, split_sdu
from dkey.codec.ble_contents import Verdict
from dkey.crypto.p256 import ORDER, PublicKey
from dkey.crypto.secret import Secret
from dkey.crypto.spake2plus import Registration
from dkey.crypto.vault import MemoryVault
from dkey.errors import (
    AuthenticationError,
    DkeyError,
    LocalFault,
    PolicyRefusal,
    RefusalCode,
    SequenceError,
    StatusError,
    WireError,
)
from dkey.lifecycle.features import Capabilities, Feature
from dkey.link.driver import run_blocking
from dkey.pairing.owner import (
    OWNER_AID,
    Cost,
    OwnerPairingApplet,
    OwnerPairingDevice,
    OwnerPairingVehicle,
    PairedVehicle,
    PairingState,
    Stretch,
    as_apdus,
    failure,
    from_sdu,
    is_owner_pairing,
    one_time_code,
    parse_code,
    qr_text,
    shown_code,
    to_sdu,
)
from dkey.pairing.owner_messages import Begin, Kind, Offer, Proof, Share
from dkey.testing import ScriptedEntropy, SeededEntropy

SALT = bytes(range(16))
CODE = Secret(b"12345678")
WRONG = Secret(b"12345679")
PHONE = Capabilities(nfc=True, ble=True, uwb=False, os="android 14")
ORDERLY = ["count", "admit", "keep", "enrol"]


def stretched(stretch: Stretch, code: Secret) -> Registration:
    """Stand in for scrypt, which is tested by itself and slow."""
    halves = [
        hashlib.sha512(label + stretch.salt + stretch.cost.to_bytes() + code.reveal()).digest()
        for label in (b"w0", b"w1")
    ]
    numbers = [int.from_bytes(half, "big") % (ORDER - 1) + 1 for half in halves]
    w0, w1 = (Secret(number.to_bytes(32, "big")) for number in numbers)
    return Registration(w0=w0, w1=w1)


class Register:
    """What the vehicle keeps, in a list."""

    def __init__(self, vehicle: PairedVehicle, deeds: list[str]) -> None:
        self.vehicle = vehicle
        self.deeds = deeds
        self.device = None
        self.refuses: dict[str, RefusalCode] = {}

    def _did(self, what: str) -> None:
        if what in self.refuses:
            raise PolicyRefusal(self.refuses[what], f"no {what}")
        self.deeds.append(what)

    def count_try(self) -> None:
        self._did("count")

    def admit(self, device):
        self._did("admit")
        self.device = device
        return self.vehicle

    def enrol(self) -> None:
        self._did("enrol")


class Meeting:
    """A vehicle that shows a code, and a phone."""

    def __init__(self, seed=1, *, code=CODE, salt=SALT, cost=None) -> None:
        self.entropy = SeededEntropy(seed)
        self.deeds: list[str] = []
        self.offer = PairedVehicle(
            group_id=self.entropy.random(16),
            public_key=self.entropy.ephemeral().public,
            resolving_key=Secret(self.entropy.random(16)),
            owner_epoch=7,
            features=frozenset({Feature.TOUCH_LOCK, Feature.REMOTE}),
            key_name="0011223344556677",
        )
        self.register = Register(self.offer, self.deeds)
        self.cost = cost or Cost()
        stretch = Stretch(salt=salt, cost=self.cost)
        self.vehicle = OwnerPairingVehicle(
            record=stretched(stretch, CODE).record(),
            salt=salt,
            cost=self.cost,
            register=self.register,
            entropy=self.entropy,
        )
        self.code = code
        self.phone = self.new_phone()

    def new_phone(self) -> OwnerPairingDevice:
        return OwnerPairingDevice(
            vault=MemoryVault(key=self.entropy.ephemeral()),
            key="key",
            capabilities=PHONE,
            entropy=self.entropy,
            keep=lambda _: self.deeds.append("keep"),
        )

    def phone_says(self, message: bytes) -> bytes | None:
        answer = self.phone.step(message)
        if isinstance(answer, Stretch):
            return self.phone.stretched(stretched(answer, self.code))
        return answer

    def run(self, change=lambda at, message: message) -> list[bytes]:
        """Run the pairing; ``change`` sees and may alter message number ``at``, from 0 (BEGIN)."""
        passed = []
        message: bytes | None = self.phone.begin()
        while message is not None:
            passed.append(message)
            message = change(len(passed) - 1, message)
            at_vehicle = len(passed) % 2 == 1
            message = self.vehicle.step(message) if at_vehicle else self.phone_says(message)
        return passed


def agreed(meeting: Meeting) -> bool:
    return meeting.phone.done and meeting.vehicle.done


# --- the whole ---------------------------------------------------------------------------------


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_both_ends_agree_on_everything_and_keep_it_in_order(seed):
    meeting = Meeting(seed)
    passed = meeting.run()
    assert agreed(meeting)
    assert [Kind(message[0]) for message in passed] == [*Kind][:8]
    assert meeting.phone.paired == meeting.offer
    assert meeting.register.device.public_key is not None
    assert meeting.register.device.capabilities == PHONE
    assert meeting.deeds == ORDERLY


@given(st.integers(0, 7), st.integers(0, 2000), st.integers(1, 255))
@settings(max_examples=250, deadline=None)
def test_a_changed_byte_anywhere_ends_it_and_the_ends_never_disagree(at, place, flip):
    meeting = Meeting()

    def change(number, message):
        if number != at:
            return message
        where = place % len(message)
        return bytes((*message[:where], message[where] ^ flip, *message[where + 1 :]))

    with pytest.raises(DkeyError):
        meeting.run(change)
    assert not meeting.phone.done
    # Only a lost DONE leaves the vehicle ahead, of a phone that has kept what it needs.
    assert meeting.vehicle.done == (at == 7)
    assert ("enrol" in meeting.deeds) == (at == 7)
    assert meeting.deeds == ORDERLY[: len(meeting.deeds)]


@given(st.integers(0, 7), st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_a_truncated_message_ends_it(at, keep):
    meeting = Meeting()
    with pytest.raises(DkeyError):
        meeting.run(lambda n, message: message[: keep % len(message)] if n == at else message)
    assert not meeting.phone.done


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_noise_as_the_first_message_reveals_and_costs_nothing(noise):
    meeting = Meeting()
    if noise[:1] == b"\xa0":
        return
    with pytest.raises(DkeyError):
        meeting.vehicle.step(noise)
    assert meeting.deeds == []


@pytest.mark.parametrize("at", range(1, 8))
def test_a_message_of_another_session_is_refused(at):
    other = Meeting(2).run()
    meeting = Meeting(1)
    if at == 1:  # OFFER is the same in both: the code's salt and cost
        assert other[1] == Meeting(1).run()[1]
        return
    with pytest.raises(DkeyError):
        meeting.run(lambda n, message: other[n] if n == at else message)
    assert not agreed(meeting)


# --- guesses -----------------------------------------------------------------------------------


def test_a_wrong_code_costs_one_try_and_the_phone_learns_it_from_proof():
    meeting = Meeting(code=WRONG)
    with pytest.raises(AuthenticationError):
        meeting.run()
    assert meeting.deeds == ["count"]
    assert meeting.phone.state is PairingState.ENDED


def test_a_try_is_counted_before_the_proof_exists():
    meeting = Meeting()
    meeting.register.refuses["count"] = RefusalCode.CODE_LOCKED_OUT
    with pytest.raises(PolicyRefusal):
        meeting.run()
    assert meeting.vehicle.state is PairingState.ENDED
    with pytest.raises(SequenceError):
        meeting.vehicle.step(Share(share=meeting.entropy.ephemeral().public.point).to_bytes())


@pytest.mark.parametrize("share", [b"\x04" + bytes(64), b"\x02" + bytes(32), bytes(65)])
def test_a_share_that_is_no_point_reveals_and_costs_nothing(share):
    meeting = Meeting()
    meeting.vehicle.step(meeting.phone.begin())
    with pytest.raises(WireError):
        meeting.vehicle.step(bytes((Kind.SHARE,)) + tlv.encode(0x86, share))
    assert meeting.deeds == []


def test_a_second_share_in_one_attempt_is_no_second_guess():
    meeting = Meeting()
    meeting.vehicle.step(meeting.phone.begin())
    share = meeting.phone_says(Offer(salt=SALT, cost=Cost()).to_bytes())
    meeting.vehicle.step(share)
    with pytest.raises(SequenceError):
        meeting.vehicle.step(share)
    assert meeting.deeds == ["count"]


@pytest.mark.parametrize("at", [4, 6])
def test_a_phone_that_leaves_after_the_proof_has_cost_one_try_and_nothing_else(at):
    meeting = Meeting()
    message = meeting.phone.begin()
    for number in range(at):
        message = meeting.vehicle.step(message) if number % 2 == 0 else meeting.phone_says(message)
    meeting.vehicle.abandon()
    assert "enrol" not in meeting.deeds
    assert meeting.deeds.count("count") == 1
    with pytest.raises(SequenceError):
        meeting.vehicle.step(message)


def test_without_the_right_confirmation_the_sealed_key_is_not_even_opened():
    meeting = Meeting()

    def strip(number, message):
        if number != 4:
            return message
        found = {tag: message[1:][at:end] for tag, _, at, end in tlv.items(message[1:])}
        return bytes((Kind.CONFIRM,)) + tlv.encode(0x88, bytes(32)) + tlv.encode(0x89, found[0x89])

    with pytest.raises(AuthenticationError):
        meeting.run(strip)
    assert meeting.deeds == ["count"]


def test_a_vehicle_that_does_not_prove_the_code_gets_no_key():
    meeting = Meeting()
    with pytest.raises(AuthenticationError):
        meeting.run(
            lambda n, m: replace(Proof.parse(m), confirmation=bytes(32)).to_bytes() if n == 3 else m
        )
    assert "admit" not in meeting.deeds


def test_a_key_that_the_phone_does_not_hold_is_not_admitted():
    meeting = Meeting()
    stolen = meeting.entropy.ephemeral().public

    class Thief(MemoryVault):
        def public(self, key: str) -> PublicKey:
            return stolen

    meeting.phone = OwnerPairingDevice(
        vault=Thief(key=meeting.entropy.ephemeral()),
        key="key",
        capabilities=PHONE,
        entropy=meeting.entropy,
    )
    with pytest.raises(AuthenticationError):
        meeting.run()
    assert meeting.deeds == ["count"]


# --- versions and cost -------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [Cost(log_n=14), Cost(log_n=18), Cost(r=1), Cost(p=2), Cost(r=9)])
def test_a_cost_outside_the_policy_is_refused_before_anything_is_stretched(cost):
    meeting = Meeting(cost=cost)
    with pytest.raises(WireError, match="cost"):
        meeting.run()
    assert meeting.deeds == []


@pytest.mark.parametrize(
    "changed",
    [
        Offer(salt=SALT, cost=Cost(log_n=16)),
        Offer(salt=b"another salt of 16 bytes"[:16], cost=Cost()),
    ],
)
def test_a_changed_offer_ends_in_other_keys_even_with_the_same_stretched_code(changed):
    meeting = Meeting()
    same = stretched(Stretch(salt=SALT, cost=Cost()), CODE)
    share = None
    meeting.vehicle.step(meeting.phone.begin())
    assert isinstance(meeting.phone.step(changed.to_bytes()), Stretch)
    share = meeting.phone.stretched(same)
    with pytest.raises(AuthenticationError):
        meeting.phone.step(meeting.vehicle.step(share))


def test_a_version_that_was_taken_out_of_the_offer_ends_it():
    meeting = Meeting()
    two = Begin(versions=(b"\x02\x00", b"\x01\x00")).to_bytes()
    with pytest.raises(AuthenticationError):
        meeting.run(lambda n, message: two if n == 0 else message)


def test_no_version_in_common_costs_nothing():
    meeting = Meeting()
    with pytest.raises(WireError):
        meeting.vehicle.step(Begin(versions=(b"\x02\x00",)).to_bytes())
    assert meeting.deeds == []


# --- refusals ----------------------------------------------------------------------------------


def test_a_refused_device_is_told_the_reason_under_the_channel():
    meeting = Meeting()
    meeting.register.refuses["admit"] = RefusalCode.DEVICE_UNSUPPORTED
    seen = []
    with pytest.raises(PolicyRefusal, match="no admit") as caught:
        meeting.run(lambda _, message: seen.append(message) or message)
    assert caught.value.code is RefusalCode.DEVICE_UNSUPPORTED
    assert meeting.vehicle.refusal.code is RefusalCode.DEVICE_UNSUPPORTED
    assert seen[-1][0] == Kind.REFUSED
    assert b"DEVICE" not in b"".join(seen)
    assert meeting.deeds == ["count"]


def test_what_permitted_the_key_may_end_before_it_is_enrolled():
    meeting = Meeting()
    meeting.register.refuses["enrol"] = RefusalCode.DRIVING
    with pytest.raises(PolicyRefusal):
        meeting.run()
    assert not meeting.vehicle.done
    assert not meeting.phone.done


def test_a_vehicle_that_is_not_ready_says_why_in_answer_to_begin_only():
    meeting = Meeting()
    meeting.phone.begin()
    with pytest.raises(PolicyRefusal) as caught:
        meeting.phone.step(failure(RefusalCode.ALREADY_LINKED))
    assert caught.value.code is RefusalCode.ALREADY_LINKED
    later = Meeting()
    later.phone.begin()
    later.phone_says(Offer(salt=SALT, cost=Cost()).to_bytes())
    with pytest.raises(AuthenticationError):
        later.phone.step(failure(RefusalCode.ALREADY_LINKED))


def test_every_other_failure_is_one_byte():
    assert failure() == b"\xaf"


@pytest.mark.parametrize("misuse", ["begin twice", "stretched early"])
def test_a_program_that_misuses_the_phone_is_told(misuse):
    meeting = Meeting()
    if misuse == "begin twice":
        meeting.phone.begin()
        with pytest.raises(LocalFault):
            meeting.phone.begin()
    else:
        with pytest.raises(LocalFault):
            meeting.phone.stretched(stretched(Stretch(salt=SALT, cost=Cost()), CODE))
    assert meeting.phone.state is PairingState.ENDED


# --- real scrypt -------------------------------------------------------------------------------


def test_a_phone_stretches_the_code_as_the_vehicle_does():
    stretch = Stretch(salt=SALT, cost=Cost())
    assert stretch.run(CODE) == stretch.run(parse_code("1234 5678"))
    assert stretch.run(CODE).w0 != stretch.run(WRONG).w0


# --- NFC ---------------------------------------------------------------------------------------


def nfc(meeting, *, failed=None):
    done = []
    applet = OwnerPairingApplet(
        lambda: meeting.phone,
        lambda stretch: stretched(stretch, meeting.code),
        paired=done.append,
        failed=failed,
    )
    return AppletHost([applet]), done


def test_the_same_pairing_runs_over_apdus():
    meeting = Meeting()
    host, done = nfc(meeting)
    run_blocking(as_apdus(meeting.vehicle), host.answer)
    assert agreed(meeting)
    assert done == [meeting.phone]
    assert meeting.deeds == ORDERLY


def test_a_phone_with_a_wrong_code_gives_one_status_without_data():
    meeting = Meeting(code=WRONG)
    told = []
    host, done = nfc(meeting, failed=told.append)
    answers = []

    def exchange(command):
        answers.append(host.answer(command))
        return answers[-1]

    with pytest.raises(StatusError):
        run_blocking(as_apdus(meeting.vehicle), exchange)
    assert answers[-1] == b"\x69\x82"
    assert done == []
    assert isinstance(told[0], AuthenticationError)


def test_a_refused_phone_learns_the_reason_over_nfc():
    meeting = Meeting()
    meeting.register.refuses["admit"] = RefusalCode.DEVICE_UNSUPPORTED
    told = []
    host, _ = nfc(meeting, failed=told.append)
    with pytest.raises(PolicyRefusal):
        run_blocking(as_apdus(meeting.vehicle), host.answer)
    assert [each.code for each in told] == [RefusalCode.DEVICE_UNSUPPORTED]


@pytest.mark.parametrize(
    "command",
    [
        Command(0x00, Kind.OFFER, 0, 0, b"", 256),
        Command(0x80, Kind.OFFER, 1, 0, b"", 256),
        Command(0x80, Kind.SHARE, 0, 0, b"", 256),
        Command(0x80, Kind.OFFER, 0, 0, b"\x5c\x00", 256),
        Command(0x80, Kind.PROOF, 0, 0, b"", 256),
        Command(0x80, 0x10, 0, 0, b"", 256),
    ],
)
def test_every_bad_command_gets_the_same_status_and_ends_the_attempt(command):
    meeting = Meeting()
    host, _ = nfc(meeting)
    assert host.answer(Command(0, 0xA4, 4, 0, OWNER_AID, 256).to_bytes())[-2:] == b"\x90\x00"
    assert host.answer(command.to_bytes()) == b"\x69\x82"
    assert meeting.phone.state is PairingState.ENDED


def test_a_phone_that_does_not_pair_now_refuses_the_selection():
    def refuse():
        raise LocalFault("nobody pairs now")

    host = AppletHost([OwnerPairingApplet(refuse, lambda stretch: stretched(stretch, CODE))])
    with pytest.raises(StatusError):
        run_blocking(as_apdus(Meeting().vehicle), host.answer)


# --- BLE ---------------------------------------------------------------------------------------


def test_a_message_survives_its_sdu_and_is_no_verdict():
    for message in Meeting().run():
        sdu = to_sdu(message)
        assert from_sdu(sdu) == message
        assert split_sdu(sdu)[0].type is MessageType.THIRD_PARTY
        with pytest.raises(WireError):
            Verdict.parse(message)


def test_a_verdict_is_no_pairing_message():
    sdu = Verdict(number=1, action=0, code=None).pass_through().to_message().to_bytes()
    assert not is_owner_pairing(sdu)


@given(st.binary(max_size=80))
def test_only_begin_begins(data):
    assert is_owner_pairing(data) == (data == to_sdu(Begin().to_bytes())) or data[7:8] == b"\xa0"


@pytest.mark.parametrize(
    "sdu",
    [
        b"",
        to_sdu(failure()) * 2,
        b"\x44" + to_sdu(failure())[1:],
        to_sdu(failure()).replace(b"\x02dk", b"\x02dx"),
        to_sdu(b"\x00"),
        to_sdu(b"\xa2" + bytes(1100)),
    ],
)
def test_anything_but_one_message_of_ours_is_refused(sdu):
    with pytest.raises(WireError):
        from_sdu(sdu)


# --- the code ----------------------------------------------------------------------------------


def test_a_code_has_8_digits_and_no_code_is_likelier():
    high = (4_294_967_295).to_bytes(4, "big")
    code = one_time_code(ScriptedEntropy(randoms=[high, (42).to_bytes(4, "big")]))
    assert code.reveal() == b"00000042"


@given(st.integers(0, 10**8 - 1))
def test_a_code_is_read_as_it_is_shown_typed_and_scanned(number):
    code = Secret(f"{number:08d}".encode())
    for text in (shown_code(code), shown_code(code).replace(" ", ""), qr_text(code)):
        assert parse_code(f" {text}\n") == code


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1234567",
        "123456789",
        "1234x678",
        "dkey:pair?v=2&code=12345678",
        "dkey:pair?code=1",
        "١٢٣٤٥٦٧٨",
    ],
)
def test_what_is_no_code_is_refused_without_being_repeated(text):
    with pytest.raises(LocalFault) as caught:
        parse_code(text)
    assert not text or text not in str(caught.value)
