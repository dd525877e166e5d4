"""Two ends of a ranging session on one air, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dkey.crypto.secret import Secret
from dkey.ranging.configuration import RangingConfiguration
from firmware_mock.uwb_air import Station, UwbAir
from firmware_mock.uwb_channel import Channel
from firmware_mock.uwb_run import Initiating, InitiatorRound, Responding
from firmware_mock.uwb_session import InitiatorSession, ResponderSession, SessionParameters

if TYPE_CHECKING:
    from dkey.ranging.measurement import RangingRound

URSK = Secret(bytes(range(32)))
CONFIGURATION = RangingConfiguration(
    protocol_version=0x0100,
    config_id=0,
    session_id=0x01020304,
    sts_index0=1000,
    responders=6,
    ran_multiplier=1,
    slots_per_round=12,
    chaps_per_slot=3,
    pulse_shape=0,
)
PARAMETERS = SessionParameters(
    ursk=URSK, configuration=CONFIGURATION, time0_ns=10_000_000, hop_key=0xCC5DD79F
)


def changed(parameters: SessionParameters = PARAMETERS, **fields) -> SessionParameters:
    """Replace fields of the parameters, or of the configuration in them."""
    inner = {key: fields.pop(key) for key in [*fields] if key in RangingConfiguration.__slots__}
    configuration = replace(parameters.configuration, **inner)
    return replace(parameters, configuration=configuration, **fields)


class World:
    """One phone and one vehicle; ``rounds`` is what the vehicle measured, ``sent`` the phone's."""

    def __init__(
        self,
        phone: SessionParameters = PARAMETERS,
        vehicle: SessionParameters | None = None,
        *,
        channel: Channel = Channel.CLEAN,
        seed: int = 1,
        at_m: tuple[float, float] = (4.0, 3.0),
    ) -> None:
        self.air = UwbAir(channel=channel, seed=seed)
        self.station = Station(at_m=at_m)
        self.rounds: list[RangingRound] = []
        self.sent: list[InitiatorRound] = []
        self.faults: list[str] = []
        self.phone = self.initiate(phone, self.station, self.sent)
        self.vehicle = self.respond(vehicle or phone, self.rounds)

    def initiate(self, told: SessionParameters, station: Station, sent: list) -> Initiating:
        run = Initiating(
            self.air,
            station,
            InitiatorSession(told),
            sent.append,
            lambda: self.faults.append("phone"),
        )
        run.start()
        return run

    def respond(self, told: SessionParameters, rounds: list) -> Responding:
        run = Responding(
            self.air,
            ResponderSession(told),
            rounds.append,
            lambda: self.faults.append("vehicle"),
        )
        run.start()
        return run

    def run(self, seconds: float = 0.97) -> World:
        self.air.advance(self.air.now_ns + round(seconds * 1e9))
        return self

    def statuses(self) -> list[set[int]]:
        """Status codes of each round that the vehicle reported."""
        return [{each.status for each in entry.ranges} for entry in self.rounds]
