"""The authority's dealings with telematic units, part of its service (requirements A15)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.authority.accounts import Purpose
from dkey.authority.core import Core
from dkey.authority.telematics import StubTransport, Telematics
from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.commands import AUTHORITY, DEALER, VEHICLE
from dkey.lifecycle.telematic import (
    By,
    TelematicEvent,
    TelematicProfile,
    TelematicState,
    TelematicUnit,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.authority.vehicles import VehicleRecord
    from dkey.lifecycle.telematic import TelematicVerb

__all__ = ["TelematicDesk"]

_QUIET = frozenset({RefusalCode.DEACTIVATED})


class TelematicDesk(Core):
    """The part of the authority that links, asks and deactivates units."""

    _telematics_kept: Telematics | None = None

    @property
    def _telematics(self) -> Telematics:
        if self._telematics_kept is None:
            self._telematics_kept = Telematics(self._file, StubTransport())
        return self._telematics_kept

    def telematic_unit(
        self,
        vehicle: bytes,
        actor: str = AUTHORITY,  # noqa: ARG002 - as a client's
    ) -> TelematicUnit:
        """Return the unit of a vehicle as it is now."""
        record = self._vehicles.find(vehicle)
        unit = self._telematics.unit(vehicle, self._now())
        return unit or _none(record)

    def link_unit(
        self,
        vehicle: bytes,
        actor: str,
        *,
        hardware_id: str,
        pro_hardware: bool = False,
        expires_s: int | None = None,
    ) -> TelematicUnit:
        """Link a unit, by a dealer who confirmed the owner and the consent (S81, S116, S157).

        Raises:
            PolicyRefusal: NOT_AUTHORISED for anybody else or without an owner, or a code of
                :func:`dkey.lifecycle.telematic.happen`.
        """
        record, now_s = self._vehicles.find(vehicle), self._now()
        profile = _profile(record)
        owner = self._rings.ring(vehicle).owner

        def link() -> TelematicUnit:
            if actor != DEALER:
                raise PolicyRefusal(
                    RefusalCode.NOT_AUTHORISED,
                    "only an official dealer links a telematic unit",
                    hint="go to an official dealer",
                )
            if owner is None:
                raise PolicyRefusal(
                    RefusalCode.NOT_AUTHORISED,
                    "nobody is known as the owner of this vehicle",
                    hint="pair the owner first",
                )
            return self._telematics.link(
                vehicle,
                TelematicUnit(
                    profile=profile,
                    hardware_id=hardware_id,
                    pro_hardware=pro_hardware,
                    market=record.market,
                    expires_s=expires_s,
                ),
                By.DEALER,
                now_s=now_s,
                consent=Purpose.PERSONAL_DATA in self._accounts.agreed(owner.account),
                service_mode=record.service_mode,
            )

        return self._done(record, actor, "LinkUnit", now_s, link)

    def confirm_unit(self, vehicle: bytes, actor: str) -> TelematicUnit:
        """The unit confirms its activation."""
        by = By.UNIT if actor in {VEHICLE, AUTHORITY} else By.OWNER
        return self._event(vehicle, actor, TelematicEvent.CONFIRM, by)

    def deactivate_unit(self, vehicle: bytes, actor: str, *, confirmed: bool) -> TelematicUnit:
        """The owner deactivates the unit, having confirmed it; only a dealer undoes it (S116)."""
        by = By.OWNER if self._is_owner(vehicle, actor) else By.UNIT
        return self._event(vehicle, actor, TelematicEvent.DEACTIVATE, by, confirmed=confirmed)

    def ask_unit(self, vehicle: bytes, actor: str, verb: TelematicVerb) -> TelematicUnit:
        """Give a verb to the unit, for the owner or somebody with a usable key."""
        record, now_s = self._vehicles.find(vehicle), self._now()

        def ask() -> TelematicUnit:
            if not (self._is_owner(vehicle, actor) or self._has_key(vehicle, actor)):
                raise PolicyRefusal(
                    RefusalCode.NOT_AUTHORISED, f"{actor} has no usable key of this vehicle"
                )
            return self._telematics.send(vehicle, verb, now_s=now_s)

        return self._done(record, actor, f"Ask{verb.value}", now_s, ask)

    def set_entitled(self, vehicle: bytes, *, valid: bool) -> TelematicUnit:
        """Record whether the contract of the unit is valid (S118)."""
        record, now_s = self._vehicles.find(vehicle), self._now()

        def entitle() -> TelematicUnit:
            return self._telematics.set_entitled(vehicle, valid=valid, now_s=now_s) or _none(record)

        return self._done(record, AUTHORITY, "Entitlement", now_s, entitle)

    def _event(
        self,
        vehicle: bytes,
        actor: str,
        event: TelematicEvent,
        by: By,
        *,
        confirmed: bool = True,
    ) -> TelematicUnit:
        record, now_s = self._vehicles.find(vehicle), self._now()

        def happen() -> TelematicUnit:
            return self._telematics.happen(vehicle, event, by, now_s=now_s, confirmed=confirmed)

        return self._done(record, actor, f"{event.value.title()}Unit", now_s, happen)

    def _done(
        self,
        record: VehicleRecord,
        actor: str,
        action: str,
        now_s: int,
        act: Callable[[], TelematicUnit],
    ) -> TelematicUnit:
        """Do something to the unit with its audit entry in one commit; note a refusal too."""
        self._check_service()
        person = self._person(actor)
        try:
            with self._file.transaction():
                unit = act()
                self._note(now_s, person, action, vehicle=record.vehicle)
        except PolicyRefusal as refusal:
            if refusal.code not in _QUIET:
                with self._file.transaction():
                    self._note(
                        now_s, person, action, vehicle=record.vehicle, code=refusal.code.value
                    )
            raise
        return unit

    def _is_owner(self, vehicle: bytes, actor: str) -> bool:
        owner = self._rings.ring(self._vehicles.find(vehicle).vehicle).owner
        return owner is not None and owner.account == self._person(actor)

    def _has_key(self, vehicle: bytes, actor: str) -> bool:
        person, now_s = self._person(actor), self._now()
        ring = self._rings.ring(vehicle)
        return any(
            share.account == person and ring.usable(share.share_id, now_s) is None
            for share in ring.live
        )


def _profile(record: VehicleRecord) -> TelematicProfile:
    try:
        return TelematicProfile(record.profile)
    except ValueError as exc:
        raise PolicyRefusal(
            RefusalCode.FEATURE_NOT_SUPPORTED,
            f"a {record.profile} vehicle has no telematic unit",
            hint="use the digital key of the vehicle",
        ) from exc


def _none(record: VehicleRecord) -> TelematicUnit:
    return TelematicUnit(
        profile=_profile(record),
        hardware_id="",
        pro_hardware=False,
        market=record.market,
        state=TelematicState.NONE,
    )
