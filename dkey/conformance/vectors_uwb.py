"""Known answers for UWB: key ladder, STS counter block, SP0 frames, hopping, UCI parameters.

An entry is recognised by what it states as outputs. Inputs that the ladder itself derives (mURSK,
mUPSK2) are compared as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.codec.uci_params import (
    HOP_ADAPTIVE,
    HOP_CONTINUOUS,
    HOP_NONE,
    HOP_SEQUENCE_AES,
    HOP_SEQUENCE_DEFAULT,
    CccCapabilities,
    check_app_config,
    parse_parameters,
)
from dkey.crypto.secret import Secret
from dkey.errors import RemoteFault
from dkey.ranging import keys
from dkey.ranging.frames import MHR_SIZE, FrameId, FrameReceiver, FrameSender, Mhr, PrePoll
from dkey.ranging.hopping import default_round
from dkey.ranging.keys import UwbAddresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.conformance.vectors_case import Case, Tally

__all__ = ["check_uwb"]


def check_uwb(case: Case, tally: Tally) -> None:
    """Check one entry of a UWB file; one that states something else is not implemented."""
    inputs, outputs = case.section("inputs"), case.section("outputs")
    for name, check in _CHECKS.items():
        if outputs.has(name):
            inputs.name = outputs.name = case.name = case.text("name")
            try:
                check(inputs, outputs, tally)
            except RemoteFault as exc:  # an input that the stack refuses to read
                tally.judge(case, str(exc), ok=False)
            return
    tally.not_yet()


def _secret(case: Case, name: str, size: int | None = None) -> Secret:
    return Secret(case.hex(name, size))


def _of_ursk(name: str, derive: Callable[[Secret], Secret]) -> Callable[[Case, Case, Tally], None]:
    def check(inputs: Case, outputs: Case, tally: Tally) -> None:
        ursk = _secret(inputs, "ursk", 32)
        tally.same(outputs, name, lambda: derive(ursk), outputs.hex(name))

    return check


def _salted_hash(inputs: Case, outputs: Case, tally: Tally) -> None:
    ursk, configuration = _secret(inputs, "ursk", 32), inputs.hex("ranging_configuration")
    expected = outputs.hex("salted_hash")
    tally.same(outputs, "salted_hash", lambda: keys.salted_hash(ursk, configuration), expected)


def _ursk_kt(inputs: Case, outputs: Case, tally: Tally) -> None:
    root, index = _secret(inputs, "mursk", 32), inputs.number("sts_index")
    expected = outputs.hex("ursk_kt")
    ursk = _secret(inputs, "ursk", 32)
    tally.same(inputs, "mursk", lambda: keys.mursk(ursk), root.reveal())
    tally.same(outputs, "ursk_kt", lambda: keys.ursk_kt(root, index), expected)


def _round_key(
    name: str, derive: Callable[[Secret, Secret], Secret]
) -> Callable[[Case, Case, Tally], None]:
    def check(inputs: Case, outputs: Case, tally: Tally) -> None:
        root, hashed = _secret(inputs, "ursk_kt", 32), _secret(inputs, "salted_hash", 16)
        tally.same(outputs, name, lambda: derive(root, hashed), outputs.hex(name))

    return check


def _sts_v(inputs: Case, outputs: Case, tally: Tally) -> None:
    hashed, index = _secret(inputs, "salted_hash", 16), inputs.number("sts_index")
    tally.same(outputs, "sts_v", lambda: keys.sts_v(hashed, index), outputs.hex("sts_v"))


def _uad(inputs: Case, outputs: Case, tally: Tally) -> None:
    seed, index = _secret(inputs, "mupsk2", 32), inputs.number("sts_index0")
    ursk = _secret(inputs, "ursk", 32)
    tally.same(inputs, "mupsk2", lambda: keys.mupsk2(ursk), seed.reveal())
    source = outputs.hex("key_source_low", 2) + outputs.hex("key_source_high", 2)
    expected = UwbAddresses(
        key_source=source,
        dest_short=outputs.hex("dest_short", 2),
        src_long=outputs.hex("src_long", 8),
    )
    tally.same(outputs, "addresses", lambda: UwbAddresses.derive(seed, index), expected)
    block = outputs.hex("uad", 16)
    tally.same(outputs, "uad", lambda: UwbAddresses.from_block(block), expected)


def _pre_poll(inputs: Case, outputs: Case, tally: Tally) -> None:
    key, counter = _secret(inputs, "key_mupsk1", 16), inputs.number("frame_counter")
    header, plain = inputs.hex("aad_mhr", MHR_SIZE), inputs.hex("plaintext")
    mhr = Mhr.parse(header)
    addresses = UwbAddresses(
        key_source=mhr.key_source,
        dest_short=mhr.dest_short.to_bytes(2, "big"),
        src_long=inputs.hex("src_long", 8),
    )
    fields = inputs.section("plaintext_fields")
    message = PrePoll(
        session_id=int.from_bytes(fields.hex("session_id", 4), "big"),
        poll_sts_index=fields.number("poll_sts_index"),
        block=fields.number("block"),
        hop=bool(fields.number("hop_flag")),
        round=fields.number("round"),
    )
    frame = header + outputs.hex("ciphertext") + outputs.hex("mic")

    def sealed() -> bytes:
        sender = FrameSender(addresses, mhr.oui, counter=counter)
        return sender.seal(key, FrameId.PRE_POLL, plain)

    def opened() -> bytes:
        return FrameReceiver(addresses, mhr.oui).open(key, FrameId.PRE_POLL, frame)

    tally.same(inputs, "plaintext", message.to_bytes, plain)
    tally.same(outputs, "sealed frame", sealed, frame)
    tally.same(outputs, "opened frame", opened, plain)


def _rounds(inputs: Case, outputs: Case, tally: Tally) -> None:
    key = int.from_bytes(inputs.hex("hop_key", 4), "big")
    rounds = inputs.number("n_round")
    if outputs.has("rounds"):
        blocks, expected = inputs.raw("blocks"), outputs.raw("rounds")
    else:
        blocks, expected = [inputs.number("block")], [outputs.number("round")]
    if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
        raise inputs.error("blocks", "expected a list of whole numbers")
    tally.same(
        outputs,
        "rounds",
        lambda: [default_round(block, key, rounds) for block in blocks],
        expected,
    )


def _parameters(inputs: Case, outputs: Case, tally: Tally) -> None:
    data = inputs.hex("tlv")
    count = outputs.number("tlv_count")
    if outputs.has("chaps_per_slot"):
        _capabilities(data, count, outputs, tally)
        return
    try:
        listed = [
            (int(each["tag"], 16), bytes.fromhex(each["value"])) for each in outputs.raw("tlvs")
        ]
    except (KeyError, TypeError, ValueError) as exc:
        raise outputs.error("tlvs", "expected a list of tag and value") from exc

    def ours() -> list[tuple[int, bytes]]:
        found = parse_parameters(data)
        check_app_config(found, uci_major=2)  # its start time has 8 bytes
        return [(each.id, each.value) for each in found]

    tally.same(outputs, "parameters", ours, listed)
    tally.judge(outputs, "tlv_count differs", ok=len(listed) == count)


def _capabilities(data: bytes, count: int, outputs: Case, tally: Tally) -> None:
    found = parse_parameters(data)
    ours = CccCapabilities.of(found)
    modes = {HOP_NONE: "none", HOP_CONTINUOUS: "continuous", HOP_ADAPTIVE: "adaptive"}
    sequences = {HOP_SEQUENCE_DEFAULT: "default", HOP_SEQUENCE_AES: "AES"}
    values: dict[str, object] = {
        "chaps_per_slot": sorted(ours.chaps_per_slot),
        "sync_codes": sorted(ours.sync_codes),
        "channels": sorted(ours.channels),
        "hopping_modes": [text for bit, text in modes.items() if ours.hopping & bit],
        "hopping_sequences": [text for bit, text in sequences.items() if ours.hopping & bit],
        "protocol_versions": [f"{each >> 8}.{each & 0xFF}" for each in ours.protocol_versions],
        "uwb_configs": sorted(ours.uwb_configs),
        "pulse_shape_combos": [f"{each:02X}" for each in sorted(ours.pulse_shapes)],
        "ran_multiplier": ours.ran_multiplier,
        "max_ranging_sessions": ours.max_sessions,
        "min_uwb_initiation_time_ms": ours.min_initiation_ms,
    }
    tally.judge(outputs, "tlv_count differs", ok=len(found) == count)
    for name, value in values.items():
        tally.judge(outputs, f"{name} differs", ok=outputs.raw(name) == value)


_CHECKS: Final[dict[str, Callable[[Case, Case, Tally], None]]] = {
    "mupsk1": _of_ursk("mupsk1", keys.mupsk1),
    "mupsk2": _of_ursk("mupsk2", keys.mupsk2),
    "mursk": _of_ursk("mursk", keys.mursk),
    "salted_hash": _salted_hash,
    "ursk_kt": _ursk_kt,
    "dursk": _round_key("dursk", keys.dursk),
    "dudsk": _round_key("dudsk", keys.dudsk),
    "sts_v": _sts_v,
    "uad": _uad,
    "ciphertext": _pre_poll,
    "rounds": _rounds,
    "round": _rounds,
    "tlv_count": _parameters,
}
"""What an entry states as an output, and how it is checked."""


# --- AES-CMAC -----------------------------------------------------------------------------------
