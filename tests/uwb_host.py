"""A plain UCI host for tests, and two virtual subsystems on one air."""

from __future__ import annotations

from typing import Any

from dkey.codec.uci import HEADER_SIZE, Packet, PacketType, Reassembler, packet_size, segments
from dkey.codec.uci_messages import Message, command, decode, encode
from dkey.codec.uci_params import AppConfig, parameter
from dkey.codec.uci_session import GetAppConfigCmd, SessionInitCmd, SetAppConfigCmd, TokenCmd
from dkey.codec.uci_status import Status
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_channel import Channel
from firmware_mock.uwb_subsystem import UwbSubsystem

SESSION = 0x01020304
ALIRO = 0xA2
URSK = bytes(range(32))
VALUES: dict[AppConfig, int | bytes] = {
    AppConfig.CHANNEL_NUMBER: 9,
    AppConfig.NUMBER_OF_CONTROLEES: 6,
    AppConfig.SLOT_DURATION: 1200,
    AppConfig.RANGING_INTERVAL: 96,
    AppConfig.STS_INDEX: 1000,
    AppConfig.PREAMBLE_CODE_INDEX: 9,
    AppConfig.SLOTS_PER_RR: 12,
    AppConfig.HOPPING_MODE: 3,
    AppConfig.HOP_MODE_KEY: 0xCC5DD79F,
    AppConfig.PROTOCOL_VERSION: b"\x01\x00",
    AppConfig.UWB_CONFIG_ID: 0,
    AppConfig.PULSESHAPE_COMBO: 0,
    AppConfig.URSK: URSK,
    AppConfig.UWB_TIME0: 10_000,
}


def split(data: bytes) -> list[bytes]:
    """Return the packets of a byte stream, which must end with one."""
    found = []
    while data:
        size = packet_size(data[:HEADER_SIZE])
        assert size <= len(data)
        found.append(data[:size])
        data = data[size:]
    return found


class Host:
    """One host with its subsystem; keeps what it was told."""

    def __init__(self, air: UwbAir, at_m: tuple[float, float] = (4.0, 3.0), **how: Any) -> None:
        self.subsystem = UwbSubsystem(air, Station(at_m=at_m), **how)
        self.told: list[Message] = []
        self.initiator = False
        self._segments = Reassembler()
        self.read()

    @property
    def chip(self):
        return self.subsystem.chip

    def read(self) -> list[Message]:
        """Take what the subsystem says; notifications are kept, responses returned too."""
        new = []
        for data in split(self.subsystem.take()):
            whole = self._segments.add(Packet.parse(data))
            if whole is None:
                continue
            message = decode(whole, strict=False, initiator=self.initiator)
            new.append(message)
            if message.type is PacketType.NOTIFICATION:
                self.told.append(message)
        return new

    def send(self, name: str, body: Any = None) -> Any:
        """Send a command and return the body of its response."""
        for packet in segments(encode(command(name, body))):
            self.subsystem.feed(packet.to_bytes())
        answers = [each for each in self.read() if each.type is PacketType.RESPONSE]
        assert len(answers) == 1
        assert answers[0].name == name
        return answers[0].body

    def status(self, name: str, body: Any = None) -> int:
        return self.send(name, body).status

    def on(self, name: str, token: int = SESSION) -> int:
        return self.status(name, TokenCmd(token=token))

    def init(self, session_id: int = SESSION, session_type: int = ALIRO) -> Any:
        return self.send(
            "SESSION_INIT", SessionInitCmd(session_id=session_id, session_type=session_type)
        )

    def configure(self, values: dict[AppConfig, int | bytes], *, token: int = SESSION) -> Any:
        parameters = tuple(parameter(which, value) for which, value in values.items())
        return self.send("SET_APP_CONFIG", SetAppConfigCmd(token=token, parameters=parameters))

    def configuration(self, ids: bytes = b"", *, token: int = SESSION) -> Any:
        return self.send("GET_APP_CONFIG", GetAppConfigCmd(token=token, ids=ids))

    def ready(self, *, initiator: bool, token: int = SESSION, **changed: int | bytes) -> None:
        """Bring a session to IDLE."""
        self.initiator = initiator
        own = {AppConfig.DEVICE_TYPE: int(initiator), AppConfig.DEVICE_ROLE: int(initiator)}
        over = {AppConfig[name]: value for name, value in changed.items()}
        assert self.init(token).status == Status.OK
        assert self.configure(own | VALUES | over, token=token).status == Status.OK

    def notified(self, name: str) -> list[Any]:
        return [each.body for each in self.told if each.name == name]


class Pair:
    """A phone and a vehicle that range over UCI."""

    def __init__(self, *, channel: Channel = Channel.CLEAN, seed: int = 1, **how: Any) -> None:
        self.air = UwbAir(channel=channel, seed=seed)
        self.phone = Host(self.air, **how)
        self.vehicle = Host(self.air, **how)

    def start(self, phone: dict[str, int | bytes] | None = None, **vehicle: int | bytes) -> Pair:
        self.phone.ready(initiator=True, **(phone or {}))
        self.vehicle.ready(initiator=False, **vehicle)
        assert self.phone.on("RANGE_START") == Status.OK
        assert self.vehicle.on("RANGE_START") == Status.OK
        return self

    def run(self, seconds: float = 0.97) -> Pair:
        self.air.advance(self.air.now_ns + round(seconds * 1e9))
        self.phone.read()
        self.vehicle.read()
        return self

    def statuses(self) -> list[set[int]]:
        return [
            {each.status for each in body.measurements}
            for body in self.vehicle.notified("SESSION_INFO")
        ]
