"""Requests about people, vehicles and records. Annotations here are read at run time."""

from typing import Annotated

from fastapi import FastAPI, Header, Path, Query

from dkey.authority import http_models as m
from dkey.authority.http_access import Access
from dkey.authority.json_form import to_json

__all__ = ["add_people"]

_ACCOUNT = "/v1/accounts/{account}"
Bearer = Annotated[str | None, Header(description="`Bearer` and the actor's token.")]
AskedBy = Annotated[m.Actor, Query(description="Who asks.")]
InPath = Annotated[m.AccountId, Path(description="Account that it is about.")]
VehicleId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Vehicle, in hex.")]
DisputeNumber = Annotated[int, Path(ge=1, le=2**31)]


def add_people(app: FastAPI, access: Access) -> None:
    """Add the requests about accounts, consents, vehicles and disputes."""
    _add_accounts(app, access)
    _add_records(app, access)
    _add_vehicles(app, access)


def _add_accounts(app: FastAPI, access: Access) -> None:
    authority = access.authority

    @app.post("/v1/accounts", operation_id="registerAccount", tags=["accounts"], responses=m.ERRORS)
    async def register(body: m.AccountForm) -> m.TokenAnswer:
        """Make an account; the answer shows its token this once."""
        token = authority.register_account(
            body.account, sms=body.sms, app=body.app, offers=body.offers
        )
        return m.TokenAnswer(token=token)

    @app.post(
        f"{_ACCOUNT}/close", operation_id="closeAccount", tags=["accounts"], responses=m.ERRORS
    )
    async def close(account: InPath, body: m.ActorForm, authorization: Bearer = None) -> m.Done:
        """End an account and its phone keys at every vehicle; cards stay."""
        access.own(body.actor, authorization, account)
        authority.close_account(body.actor, account)
        return m.Done()

    @app.post(
        f"{_ACCOUNT}/consents", operation_id="recordConsent", tags=["accounts"], responses=m.ERRORS
    )
    async def consent(
        account: InPath, body: m.ConsentForm, authorization: Bearer = None
    ) -> m.ConsentKept:
        """Record a consent: who, to which version, on which channel."""
        access.own(body.actor, authorization, account)
        authority.record_consent(
            body.actor, account, body.purpose, version=body.version, channel=body.channel
        )
        return m.ConsentKept(purpose=body.purpose)

    @app.post(
        f"{_ACCOUNT}/consents/withdraw",
        operation_id="withdrawConsent",
        tags=["accounts"],
        responses=m.ERRORS,
    )
    async def withdraw(
        account: InPath, body: m.ConsentForm, authorization: Bearer = None
    ) -> m.Gone:
        """Take a consent back; audit entries that rest on it go."""
        access.own(body.actor, authorization, account)
        return m.Gone(removed=authority.withdraw_consent(body.actor, account, body.purpose))

    @app.post(f"{_ACCOUNT}/offers", operation_id="setOffers", tags=["accounts"], responses=m.ERRORS)
    async def offers(account: InPath, body: m.OffersForm, authorization: Bearer = None) -> m.Done:
        """Switch advertisements on or off; security notices have no switch."""
        access.own(body.actor, authorization, account)
        authority.set_offers(body.actor, account, wanted=body.wanted)
        return m.Done()

    @app.delete(
        "/v1/persons/{account}",
        operation_id="erasePerson",
        tags=["accounts"],
        responses=m.ERRORS,
    )
    async def erase(account: InPath, actor: AskedBy, authorization: Bearer = None) -> m.Gone:
        """Forget a person."""
        access.own(actor, authorization, account)
        return m.Gone(removed=authority.erase(actor, account))

    @app.get(
        f"{_ACCOUNT}/notices", operation_id="listNotices", tags=["accounts"], responses=m.ERRORS
    )
    async def notices(
        account: InPath, actor: AskedBy, authorization: Bearer = None
    ) -> m.RecordList:
        """List the notices that were sent to a person."""
        access.own(actor, authorization, account)
        return m.RecordList(records=to_json(authority.notices(account)))


def _add_records(app: FastAPI, access: Access) -> None:
    authority = access.authority

    @app.get("/v1/audit/export", operation_id="exportPerson", tags=["records"], responses=m.ERRORS)
    async def export(
        account: Annotated[m.AccountId, Query()], actor: AskedBy, authorization: Bearer = None
    ) -> m.RecordList:
        """Return all that is kept about a person, in one record."""
        access.own(actor, authorization, account)
        return m.RecordList(records=[authority.export(account)])

    @app.get(
        "/v1/vehicles/{vehicle}/audit",
        operation_id="listAudit",
        tags=["records"],
        responses=m.ERRORS,
    )
    async def audit(
        vehicle: VehicleId, actor: AskedBy, authorization: Bearer = None
    ) -> m.RecordList:
        """List the audit entries of a vehicle, with pseudonyms."""
        access.principal(actor, authorization)
        return m.RecordList(records=to_json(authority.audit_log(bytes.fromhex(vehicle))))

    @app.post("/v1/disputes", operation_id="openDispute", tags=["records"], responses=m.ERRORS)
    async def dispute(body: m.DisputeForm, authorization: Bearer = None) -> m.NumberAnswer:
        """Keep all entries about a person or a vehicle until the dispute ends."""
        access.principal(body.actor, authorization)
        vehicle = bytes.fromhex(body.vehicle) if body.vehicle else None
        number = authority.open_dispute(body.reason, account=body.account, vehicle=vehicle)
        return m.NumberAnswer(number=number)

    @app.post(
        "/v1/disputes/{number}/end",
        operation_id="endDispute",
        tags=["records"],
        responses=m.ERRORS,
    )
    async def end(number: DisputeNumber, body: m.ActorForm, authorization: Bearer = None) -> m.Done:
        """End a dispute."""
        access.principal(body.actor, authorization)
        authority.end_dispute(number)
        return m.Done()


def _add_vehicles(app: FastAPI, access: Access) -> None:
    authority = access.authority

    @app.post("/v1/vehicles", operation_id="registerVehicle", tags=["vehicle"], responses=m.ERRORS)
    async def register(body: m.VehicleForm, authorization: Bearer = None) -> m.TokenAnswer:
        """Take in a vehicle; the answer shows its token this once."""
        access.principal(body.actor, authorization)
        token = authority.register_vehicle(
            bytes.fromhex(body.vehicle),
            vin=body.vin,
            market=body.market,
            profile=body.profile,
            public_key=bytes.fromhex(body.public_key),
            service_mode=body.service_mode,
        )
        return m.TokenAnswer(token=token)

    @app.post(
        "/v1/vehicles/{vehicle}/service-mode",
        operation_id="setServiceMode",
        tags=["vehicle"],
        responses=m.ERRORS,
    )
    async def service_mode(
        vehicle: VehicleId, body: m.ServiceModeForm, authorization: Bearer = None
    ) -> m.Done:
        """Record that a vehicle is in service mode, or not any more."""
        access.principal(body.actor, authorization)
        authority.set_service_mode(bytes.fromhex(vehicle), on=body.on)
        return m.Done()
