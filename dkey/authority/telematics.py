"""Telematic units of the vehicles here: the state machine, kept, over a stub transport.

Who may do what is decided in :mod:`dkey.lifecycle.telematic`; this keeps the unit and carries what
was decided to it. After a deactivation nothing more is logged but changes of state (S156).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Protocol

from dkey.lifecycle.telematic import (
    By,
    TelematicEvent,
    TelematicProfile,
    TelematicState,
    TelematicUnit,
    TelematicVerb,
    command,
    happen,
    settled,
)

if TYPE_CHECKING:
    from dkey.lifecycle.durable import DurableFile

__all__ = ["StubTransport", "Telematics", "Transport"]


class Transport(Protocol):
    """What carries a verb to a unit."""

    def send(self, vehicle: bytes, verb: TelematicVerb) -> None:
        """Hand over one verb; returns when the unit has it."""


class StubTransport:
    """A unit that takes everything, for a prototype: no cellular network is here."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, TelematicVerb]] = []

    def send(self, vehicle: bytes, verb: TelematicVerb) -> None:
        """Keep the verb."""
        self.sent.append((vehicle, verb))


class Telematics:
    """The table of units; everything that writes needs an open transaction."""

    def __init__(self, file: DurableFile, transport: Transport) -> None:
        self._file = file
        self._transport = transport

    def unit(self, vehicle: bytes, now_s: int) -> TelematicUnit | None:
        """Return the unit of a vehicle as it is at this time; None where none was ever linked."""
        rows = self._file.rows("SELECT unit FROM telematic WHERE vehicle = ?", vehicle)
        return settled(_unit(rows[0][0]), now_s) if rows else None

    def link(
        self,
        vehicle: bytes,
        fitted: TelematicUnit,
        by: By,
        *,
        now_s: int,
        consent: bool,
        service_mode: bool,
    ) -> TelematicUnit:
        """Link a fitted unit, or link the one that is there again (S81, S116).

        Raises:
            PolicyRefusal: See :func:`dkey.lifecycle.telematic.happen`.
        """
        known = self.unit(vehicle, now_s)
        if known is not None and known.state is TelematicState.EXPIRED:
            # The end is the module's, not the vehicle's: another one begins anew (S130).
            same = known.hardware_id == fitted.hardware_id
            known = known if same else None
        before = replace(fitted, state=known.state) if known is not None else fitted
        return self._happen(
            vehicle,
            before,
            TelematicEvent.LINK,
            by,
            now_s=now_s,
            consent=consent,
            service_mode=service_mode,
        )

    def happen(
        self,
        vehicle: bytes,
        event: TelematicEvent,
        by: By,
        *,
        now_s: int,
        confirmed: bool = True,
    ) -> TelematicUnit:
        """Let something happen to the unit.

        Raises:
            PolicyRefusal: See :func:`dkey.lifecycle.telematic.happen`.
        """
        before = self.unit(vehicle, now_s) or _NOBODY
        return self._happen(vehicle, before, event, by, now_s=now_s, confirmed=confirmed)

    def send(self, vehicle: bytes, verb: TelematicVerb, *, now_s: int) -> TelematicUnit:
        """Give a verb to the unit.

        Raises:
            PolicyRefusal: See :func:`dkey.lifecycle.telematic.command`.
        """
        after = command(self.unit(vehicle, now_s) or _NOBODY, verb, now_s=now_s)
        self._put(vehicle, after)
        self._transport.send(vehicle, verb)
        return after

    def set_entitled(self, vehicle: bytes, *, valid: bool, now_s: int) -> TelematicUnit | None:
        """Record whether the contract is valid (S118)."""
        unit = self.unit(vehicle, now_s)
        if unit is None:
            return None
        after = replace(unit, entitled=valid)
        self._put(vehicle, after)
        return after

    def _happen(
        self, vehicle: bytes, unit: TelematicUnit, event: TelematicEvent, by: By, **how: Any
    ) -> TelematicUnit:
        after = happen(unit, event, by, **how)
        self._put(vehicle, after)
        return after

    def _put(self, vehicle: bytes, unit: TelematicUnit) -> None:
        form = json.dumps(asdict(unit), sort_keys=True)
        self._file.put("telematic", vehicle, form, replace=True)


_NOBODY = TelematicUnit(
    profile=TelematicProfile.LIGHT, hardware_id="", pro_hardware=False, market=""
)


def _unit(text: str) -> TelematicUnit:
    form = json.loads(text)
    form["profile"] = TelematicProfile(form["profile"])
    form["state"] = TelematicState(form["state"])
    return TelematicUnit(**form)
