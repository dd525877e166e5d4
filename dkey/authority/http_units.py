"""Requests about telematic units. Annotations here are read at run time."""

from typing import Annotated

from fastapi import FastAPI, Header, Path, Query

from dkey.authority import http_models as m
from dkey.authority.http_access import Access
from dkey.authority.json_form import to_json
from dkey.errors import WireError
from dkey.lifecycle.telematic import TelematicUnit

__all__ = ["add_units"]

_UNIT = "/v1/vehicles/{vehicle}/unit"
Bearer = Annotated[str | None, Header(description="`Bearer` and the actor's token.")]
AskedBy = Annotated[m.Actor, Query(description="Who asks.")]
VehicleId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Vehicle, in hex.")]


def _answer(unit: TelematicUnit) -> m.UnitAnswer:
    return m.UnitAnswer(**to_json(unit))


def add_units(app: FastAPI, access: Access) -> None:
    """Add the requests about telematic units."""
    authority = access.authority

    @app.get(_UNIT, operation_id="getUnit", tags=["telematic"], responses=m.ERRORS)
    async def unit(
        vehicle: VehicleId, actor: AskedBy, authorization: Bearer = None
    ) -> m.UnitAnswer:
        """Tell where the unit stands."""
        number = access.member(vehicle, actor, authorization)
        return _answer(authority.telematic_unit(number))

    @app.post(f"{_UNIT}/link", operation_id="linkUnit", tags=["telematic"], responses=m.ERRORS)
    async def link(
        vehicle: VehicleId, body: m.LinkForm, authorization: Bearer = None
    ) -> m.UnitAnswer:
        """Link a unit, or activate it again; by a dealer."""
        number = bytes.fromhex(vehicle)
        access.check(body.actor, authorization, number)
        return _answer(
            authority.link_unit(
                number,
                body.actor,
                hardware_id=body.hardware_id,
                pro_hardware=body.pro_hardware,
                expires_s=body.expires_s,
            )
        )

    @app.post(
        f"{_UNIT}/confirm", operation_id="confirmUnit", tags=["telematic"], responses=m.ERRORS
    )
    async def confirm(
        vehicle: VehicleId, body: m.ActorForm, authorization: Bearer = None
    ) -> m.UnitAnswer:
        """The unit confirms its activation."""
        number = bytes.fromhex(vehicle)
        access.check(body.actor, authorization, number)
        return _answer(authority.confirm_unit(number, body.actor))

    @app.post(
        f"{_UNIT}/deactivate", operation_id="deactivateUnit", tags=["telematic"], responses=m.ERRORS
    )
    async def deactivate(
        vehicle: VehicleId, body: m.UnitForm, authorization: Bearer = None
    ) -> m.UnitAnswer:
        """Deactivate the unit; needs `confirmed`, and only a dealer undoes it."""
        number = bytes.fromhex(vehicle)
        access.check(body.actor, authorization, number)
        return _answer(authority.deactivate_unit(number, body.actor, confirmed=body.confirmed))

    @app.post(
        f"{_UNIT}/commands", operation_id="commandUnit", tags=["telematic"], responses=m.ERRORS
    )
    async def ask(
        vehicle: VehicleId, body: m.UnitForm, authorization: Bearer = None
    ) -> m.UnitAnswer:
        """Give a verb to the unit."""
        number = bytes.fromhex(vehicle)
        access.check(body.actor, authorization, number)
        if body.verb is None:
            raise WireError("a command to a unit needs its verb")
        return _answer(authority.ask_unit(number, body.actor, body.verb))

    @app.post(
        f"{_UNIT}/entitlement",
        operation_id="setEntitlement",
        tags=["telematic"],
        responses=m.ERRORS,
    )
    async def entitlement(
        vehicle: VehicleId, body: m.UnitForm, authorization: Bearer = None
    ) -> m.UnitAnswer:
        """Record whether the contract is valid."""
        access.principal(body.actor, authorization)
        if body.valid is None:
            raise WireError("an entitlement is valid or not")
        return _answer(authority.set_entitled(bytes.fromhex(vehicle), valid=body.valid))
