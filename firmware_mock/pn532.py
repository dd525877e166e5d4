"""A virtual PN532 NFC controller: host frames in, host frames out, a virtual field behind it.

It answers the host commands that a PC driver needs to read a Type 4A device and to emulate one.
Names, codes and layouts are those of the NXP PN532 user manual (UM0701-02): §6.2 host frames,
§7 commands, §8.6 contactless interface registers. Not modelled: the FIFO beyond its first byte,
parity, frame delays and collisions; a green test here is evidence about the driver, not about RF.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from dkey.link.type_a import crc_a
from firmware_mock.pn532_antenna import EmulatedDevice
from firmware_mock.pn532_host import (
    ACK,
    ERROR_FRAME,
    NACK,
    Command,
    HostFrames,
    Register,
    RfStatus,
    host_frame,
)

__all__ = [
    "Command",
    "EmulatedDevice",
    "FieldDevice",
    "Register",
    "RfFaults",
    "RfStatus",
    "VirtualPn532",
]

_TO_CHIP = 0xD4
_TO_HOST = 0xD5


class FieldDevice(Protocol):
    """What can be put into the field: a Type A device that sees raw frames."""

    def receive(self, frame: bytes, bits: int = 8) -> bytes | None:
        """Answer one reader frame (with CRC; ``bits`` valid in the last byte), or stay silent."""

    def field_on(self) -> None:
        """The field came up."""

    def field_off(self) -> None:
        """The field went down."""


@dataclass(slots=True, kw_only=True)
class RfFaults:
    """Radio faults by the number of the reader's frame, 1 being the first since power-up."""

    drop_commands: set[int] = field(default_factory=set)
    """The device does not hear these frames."""
    drop_answers: set[int] = field(default_factory=set)
    """The device hears and acts; the reader hears nothing."""
    corrupt_answers: set[int] = field(default_factory=set)
    """One bit of the answer flips on the way to the reader."""


Handler = Callable[["VirtualPn532", bytes], "bytes | None"]


class VirtualPn532:
    """The controller of one reader, and the field that its antenna makes.

    Attributes:
        faults: Radio faults, as data.
        tear_after_frames: The device leaves the field after this many more RF frames.
        output: Takes what goes to the host outside of :meth:`host`: the ACK and the answer of the
            commands that wait for another reader (target role). A port sets it.
        commands: How often the host sent each command.
        rf_frames: Frames that this reader has sent into the field.
        baud_rate: Speed that the host asked for.
        antenna: This chip as another reader's field sees it, while it emulates a device.
    """

    def __init__(self, target: FieldDevice | None = None) -> None:
        self.faults = RfFaults()
        self.tear_after_frames: int | None = None
        self.output: Callable[[bytes], None] = lambda _frame: None
        self.commands: Counter[Command] = Counter()
        self.rf_frames = 0
        self.baud_rate = 115_200
        self.antenna = EmulatedDevice(self._tell_host)
        self._target = target
        self._field = False
        self._registers: dict[int, int] = {}
        self._activation_tries = 1
        self._frames = HostFrames()
        self._last_answer = b""
        self._lock = threading.RLock()

    # ---- the field ----------------------------------------------------------------------

    @property
    def target(self) -> FieldDevice | None:
        """The device in the field; assign to put one in or, with None, to take it out."""
        return self._target

    @target.setter
    def target(self, device: FieldDevice | None) -> None:
        with self._lock:
            if self._field and self._target is not None:
                self._target.field_off()
            self._target = device
            if self._field and device is not None:
                device.field_on()

    @property
    def field_is_on(self) -> bool:
        """Whether this reader's carrier is on."""
        return self._field

    def _switch_field(self, *, on: bool) -> None:
        if on == self._field:
            return
        self._field = on
        if self._target is not None:
            if on:
                self._target.field_on()
            else:
                self._target.field_off()

    def _radiate(self, frame: bytes, bits: int = 8) -> bytes | None:
        """Send one frame as it is on the air and return the answer as it is on the air."""
        self._switch_field(on=True)
        if self.tear_after_frames is not None:
            if self.tear_after_frames <= 0:
                self.target = None
                self.tear_after_frames = None
            else:
                self.tear_after_frames -= 1
        self.rf_frames += 1
        number = self.rf_frames
        self._registers[Register.FIFO_DATA] = frame[0]
        if self._target is None or number in self.faults.drop_commands:
            return None
        answer = self._target.receive(frame, bits)
        if not answer or number in self.faults.drop_answers:
            return None
        if number in self.faults.corrupt_answers:
            answer = bytes([answer[0] ^ 0x01]) + answer[1:]
        self._registers[Register.FIFO_DATA] = answer[0]
        return answer

    # ---- the host -----------------------------------------------------------------------

    def host(self, data: bytes) -> bytes:
        """Take bytes from the host and return the bytes that go back at once."""
        with self._lock:
            return b"".join(self._answer(found) for found in self._frames.feed(data))

    def _answer(self, body: bytes) -> bytes:
        if body == ACK:  # ends the command in progress (UM0701-02 §6.2.1.3)
            self.antenna.abort()
            return b""
        if body == NACK:  # asks for the last answer again
            return self._last_answer
        try:
            command = Command(body[1])
            handler, least = self._COMMANDS[command]
        except (IndexError, ValueError):
            return ACK + ERROR_FRAME
        if body[0] != _TO_CHIP or len(body) - 2 < least:
            return ACK + ERROR_FRAME
        self.commands[command] += 1
        if command in _DEFERRED:  # the answer may come from another thread: never before the ACK
            self.output(ACK)
            result = handler(self, body[2:])
            return b"" if result is None else self._reply(command, result)
        return ACK + self._reply(command, handler(self, body[2:]) or b"")

    def _tell_host(self, command: Command, result: bytes) -> None:
        """Answer ``command`` later than at once."""
        self.output(self._reply(command, result))

    def _reply(self, command: Command, result: bytes) -> bytes:
        self._last_answer = host_frame(bytes([_TO_HOST, command + 1]) + result)
        return self._last_answer

    # ---- commands: data after the code in, data after the code out, None for later --------

    def _diagnose(self, data: bytes) -> bytes:
        return data if data[0] == 0x00 else b"\x00"  # test 0 is the line test: an echo

    def _get_firmware_version(self, _data: bytes) -> bytes:
        return bytes.fromhex("32010607")  # PN532, version 1.6, ISO 14443 A and B and ISO 18092

    def _read_register(self, data: bytes) -> bytes:
        addresses = (int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
        return bytes(self._registers.get(address, 0) for address in addresses)

    def _write_register(self, data: bytes) -> bytes:
        for i in range(0, len(data) - 2, 3):
            self._registers[int.from_bytes(data[i : i + 2], "big")] = data[i + 2]
        return b""

    def _set_serial_baud_rate(self, data: bytes) -> bytes:
        rates = (9600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 921_600, 1_288_000)
        if data[0] < len(rates):
            self.baud_rate = rates[data[0]]
        return b""

    def _accept(self, _data: bytes) -> bytes:
        return b""  # settings that this model has no use for

    def _power_down(self, _data: bytes) -> bytes:
        self._switch_field(on=False)
        return bytes([RfStatus.OK])

    def _rf_configuration(self, data: bytes) -> bytes:
        item, value = data[0], data[1:]
        if item == 0x01 and value:  # RF field: bit 0 on
            self._switch_field(on=bool(value[0] & 0x01))
        elif item == 0x05 and len(value) == 3:  # MxRtyPassiveActivation; FFh would be endless
            self._activation_tries = 1 + (value[2] if value[2] != 0xFF else 0)
        return b""

    def _in_list_passive_target(self, data: bytes) -> bytes:
        if data[1] != 0x00:  # BrTy 0 is 106 kbit/s Type A, all this field knows
            return b"\x00"
        self._registers |= {Register.TX_MODE: 0, Register.RX_MODE: 0, Register.BIT_FRAMING: 7}
        for _ in range(self._activation_tries):
            atqa = self._radiate(b"\x26", 7)
            if atqa is not None:
                break
        else:
            return b"\x00"
        selected = self._select()
        if selected is None:
            return b"\x00"
        uid, sak = selected
        self._registers |= {Register.TX_MODE: 0x80, Register.RX_MODE: 0x80, Register.BIT_FRAMING: 0}
        return b"\x01\x01" + atqa[::-1] + bytes([sak, len(uid)]) + uid

    def _select(self) -> tuple[bytes, int] | None:
        """Run the cascade levels of ISO/IEC 14443-3 §6.5 and return UID and SAK."""
        uid = b""
        for level in (0x93, 0x95, 0x97):
            part = self._radiate(bytes([level, 0x20]))
            if part is None or len(part) != 5:
                return None
            request = bytes([level, 0x70]) + part
            sak = self._radiate(request + crc_a(request))
            if sak is None or sak[1:] != crc_a(sak[:1]):
                return None
            if not sak[0] & 0x04:  # cascade bit clear: UID complete
                return uid + part[:4], sak[0]
            uid += part[1:4]
        return None

    def _in_communicate_thru(self, data: bytes) -> bytes:
        if self._registers.get(Register.TX_MODE, 0) & 0x80:
            data += crc_a(data)
        answer = self._radiate(data, (self._registers.get(Register.BIT_FRAMING, 0) & 0x07) or 8)
        if answer is None:
            return bytes([RfStatus.TIMEOUT])
        if self._registers.get(Register.RX_MODE, 0) & 0x80:
            if answer[-2:] != crc_a(answer[:-2]):
                return bytes([RfStatus.CRC_ERROR])
            answer = answer[:-2]
        return bytes([RfStatus.OK]) + answer

    def _tg_init_as_target(self, data: bytes) -> None:
        self._switch_field(on=False)
        self.antenna.expect_activation(atqa=data[1:3], uid=b"\x08" + data[3:6], sak=data[6])

    def _tg_get_initiator_command(self, _data: bytes) -> bytes | None:
        return self.antenna.expect_command()

    def _tg_response_to_initiator(self, data: bytes) -> bytes:
        return self.antenna.respond(data)

    _COMMANDS: ClassVar[dict[Command, tuple[Handler, int]]] = {
        # command: (handler, least number of data bytes)
        Command.DIAGNOSE: (_diagnose, 1),
        Command.GET_FIRMWARE_VERSION: (_get_firmware_version, 0),
        Command.READ_REGISTER: (_read_register, 2),
        Command.WRITE_REGISTER: (_write_register, 3),
        Command.SET_SERIAL_BAUD_RATE: (_set_serial_baud_rate, 1),
        Command.SET_PARAMETERS: (_accept, 1),
        Command.SAM_CONFIGURATION: (_accept, 1),
        Command.POWER_DOWN: (_power_down, 1),
        Command.RF_CONFIGURATION: (_rf_configuration, 1),
        Command.IN_COMMUNICATE_THRU: (_in_communicate_thru, 1),
        Command.IN_LIST_PASSIVE_TARGET: (_in_list_passive_target, 2),
        Command.TG_GET_INITIATOR_COMMAND: (_tg_get_initiator_command, 0),
        Command.TG_INIT_AS_TARGET: (_tg_init_as_target, 36),
        Command.TG_RESPONSE_TO_INITIATOR: (_tg_response_to_initiator, 1),
    }


_DEFERRED = frozenset({Command.TG_INIT_AS_TARGET, Command.TG_GET_INITIATOR_COMMAND})
