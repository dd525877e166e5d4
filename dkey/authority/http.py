"""The authority over HTTP: a FastAPI application around one :class:`Authority`.

Every state-changing request names its actor and carries that actor's bearer token. An answer is
``{"ok": true, ...}``, or a 4xx with ``{"ok": false, "code", "why", "try"}``. The whole API is in
the document at ``/openapi.json`` and in specs/authority.md. Annotations here are read at run time.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from dkey.authority import http_models as m
from dkey.authority.accounts import UnknownError
from dkey.authority.core import OutageError
from dkey.authority.http_access import Access, UnauthenticatedError
from dkey.authority.http_guard import Guard, Limits
from dkey.authority.http_people import add_people
from dkey.authority.http_units import add_units
from dkey.authority.json_form import from_json, to_json
from dkey.authority.routes import ROUTES, Route
from dkey.authority.service import Authority
from dkey.errors import DkeyError, LocalFault, PolicyRefusal, RefusalCode, StoreError, WireError
from dkey.testing import FakeClock

__all__ = ["api_document", "create_app"]

_VEHICLE = "/v1/vehicles/{vehicle}"
VehicleId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Vehicle, in hex.")]
ItemId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Share, key or card, in hex.")]
Bearer = Annotated[str | None, Header(description="`Bearer` and the actor's token.")]
AskedBy = Annotated[m.Actor, Query(description="Who asks.")]


def create_app(
    authority: Authority,
    *,
    fake_clock: FakeClock | None = None,
    limits: Limits | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Any:
    """Return the ASGI application.

    Args:
        authority: What it serves; used from the thread of the event loop only.
        fake_clock: The authority's clock where a test moves it; adds ``POST /v1/clock``.
        limits: Sizes and rates.
        now: A monotonic clock, for the rates.
    """
    app = _application(authority, fake_clock)
    return Guard(app, limits or Limits(), now)


def api_document(authority: Authority) -> dict[str, Any]:
    """Return the API document, with what only a fake clock brings."""
    return _application(authority, FakeClock()).openapi()


def _application(authority: Authority, fake_clock: FakeClock | None) -> FastAPI:
    app = FastAPI(
        title="dkey authority",
        version="1",
        description="Accounts, roles and shares of vehicles. A prototype: no identity service.",
        docs_url=None,
        redoc_url=None,
    )
    access = Access(authority)
    for route in ROUTES:
        _add_command(app, access, route)
    _add_reading(app, access)
    add_people(app, access)
    add_units(app, access)
    _add_service(app, access, fake_clock)
    _add_errors(app)
    return app


def _add_command(app: FastAPI, access: Access, route: Route) -> None:
    model = m.command_model(route)

    def carry_out(
        vehicle: str, item: str | None, body: BaseModel, bearer: str | None
    ) -> dict[str, Any]:
        form = body.model_dump(mode="json")
        if route.item is not None:
            form[route.item] = item
        command = from_json(route.command, form)
        number = bytes.fromhex(vehicle)
        access.check(command.actor, bearer, number)
        return {"ok": True, **to_json(access.authority.execute(number, command))}

    async def with_item(
        vehicle: str, item: str, body: BaseModel, authorization: str | None = None
    ) -> dict[str, Any]:
        return carry_out(vehicle, item, body, authorization)

    async def without_item(
        vehicle: str, body: BaseModel, authorization: str | None = None
    ) -> dict[str, Any]:
        return carry_out(vehicle, None, body, authorization)

    endpoint = with_item if route.item else without_item
    endpoint.__annotations__ = {
        "vehicle": VehicleId,
        "item": ItemId,
        "body": model,
        "authorization": Bearer,
    }
    app.add_api_route(
        _VEHICLE + route.path,
        endpoint,
        methods=["POST"],
        operation_id=route.name,
        summary=(route.command.__doc__ or "").partition("\n")[0],
        tags=[route.tag],
        response_model=m.OutcomeAnswer,
        responses=m.ERRORS,
    )


def _add_reading(app: FastAPI, access: Access) -> None:
    authority = access.authority

    @app.get(f"{_VEHICLE}/keys", operation_id="listKeys", tags=["keys"], responses=m.ERRORS)
    async def keys(
        vehicle: VehicleId, actor: AskedBy, authorization: Bearer = None
    ) -> m.KeyListAnswer:
        """List the keys that the actor may see: all for the owner's side, else only the own."""
        number = access.member(vehicle, actor, authorization)
        return m.KeyListAnswer(**to_json(authority.keys(number, actor)))

    @app.get(f"{_VEHICLE}/bookings", operation_id="listBookings", tags=["keys"], responses=m.ERRORS)
    async def bookings(
        vehicle: VehicleId, actor: AskedBy, authorization: Bearer = None
    ) -> m.BookingList:
        """List bookings of provider keys that the actor may see."""
        number = access.member(vehicle, actor, authorization)
        found = to_json(authority.bookings(number, actor))
        return m.BookingList(bookings=found, outage=authority.health().outage)

    @app.get(
        f"{_VEHICLE}/withdrawal-list",
        operation_id="getWithdrawalList",
        tags=["keys"],
        response_class=Response,
        responses={
            **m.ERRORS,
            200: {"content": {"application/cose": {}}, "description": "COSE_Sign1."},
        },
    )
    async def withdrawal_list(
        vehicle: VehicleId, actor: AskedBy, authorization: Bearer = None
    ) -> Response:
        """Return the newest signed withdrawal list, to be carried to the vehicle."""
        number = access.member(vehicle, actor, authorization)
        data = authority.withdrawal_list(number)
        return Response(content=data, media_type="application/cose")


def _add_service(app: FastAPI, access: Access, fake_clock: FakeClock | None) -> None:
    authority = access.authority

    @app.get("/v1/health", operation_id="getHealth", tags=["service"], responses=m.ERRORS)
    async def health() -> m.HealthAnswer:
        """Tell how the authority is."""
        return m.HealthAnswer(**to_json(authority.health()))

    @app.get("/v1/public-key", operation_id="getPublicKey", tags=["service"], responses=m.ERRORS)
    async def public_key() -> m.PublicKeyAnswer:
        """Return the key that the authority's statements are verified with."""
        return m.PublicKeyAnswer(public_key=authority.public_key.point.hex())

    @app.post("/v1/outage", operation_id="setOutage", tags=["service"], responses=m.ERRORS)
    async def outage(body: m.OutageForm, authorization: Bearer = None) -> m.RecordList:
        """Begin or end an outage; its end answers the results of what waited."""
        access.principal(body.actor, authorization)
        if body.on:
            authority.begin_outage(body.text)
            return m.RecordList(records=[])
        results = authority.end_outage(body.text)
        return m.RecordList(records=[access.waiting(each) for each in results])

    @app.get("/v1/incidents", operation_id="listIncidents", tags=["service"], responses=m.ERRORS)
    async def incidents(actor: AskedBy, authorization: Bearer = None) -> m.RecordList:
        """List outages: report, actions, resumption."""
        access.principal(actor, authorization)
        return m.RecordList(records=to_json(authority.incidents()))

    @app.get("/v1/queue", operation_id="listQueue", tags=["service"], responses=m.ERRORS)
    async def queue(actor: AskedBy, authorization: Bearer = None) -> m.RecordList:
        """List commands that wait or waited, with their results."""
        access.principal(actor, authorization)
        return m.RecordList(records=[access.waiting(each) for each in authority.queue()])

    if fake_clock is None:
        return
    clock = fake_clock

    @app.post("/v1/clock", operation_id="advanceClock", tags=["service"], responses=m.ERRORS)
    async def advance(body: m.ClockForm, authorization: Bearer = None) -> m.HealthAnswer:
        """Move the fake clock on, and let happen what is due then."""
        access.principal(body.actor, authorization)
        clock.now_s = max(clock.now_s, authority.health().time_s) + body.advance_s
        authority.tick()
        return m.HealthAnswer(**to_json(authority.health()))


# --- refusals ------------------------------------------------------------------------------------


def _add_errors(app: FastAPI) -> None:
    async def refused(_request: Request, exc: Exception) -> JSONResponse:
        return _refusal(exc)

    for kind in (DkeyError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, refused)


def _refusal(exc: Exception) -> JSONResponse:  # noqa: PLR0911 - one row for each kind
    """Return the answer to a request that failed; what was sent is not repeated in it."""
    match exc:
        case PolicyRefusal():
            status = 403 if exc.code is RefusalCode.NOT_AUTHORISED else 409
            return _answer(status, exc.code.value, exc, remaining_s=exc.remaining_s)
        case UnauthenticatedError():
            return _answer(401, "UNAUTHENTICATED", exc)
        case OutageError():
            return _answer(409, "OUTAGE", exc)
        case UnknownError():
            return _answer(404, "NOT_FOUND", exc)
        case StoreError():
            return _answer(503, "STORE", exc)
        case LocalFault() | WireError():
            return _answer(422, "BAD_REQUEST", exc)
        case RequestValidationError():
            return _answer(422, "BAD_REQUEST", WireError(_what_is_wrong(exc)))
        case HTTPException():
            code = {404: "NOT_FOUND", 405: "METHOD"}.get(exc.status_code, "BAD_REQUEST")
            return _answer(exc.status_code, code, WireError(str(exc.detail)))
        case _:
            raise exc


def _what_is_wrong(exc: RequestValidationError) -> str:
    first = exc.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}".encode("ascii", "replace").decode()[:300]


def _answer(
    status: int, code: str, exc: Exception, *, remaining_s: float | None = None
) -> JSONResponse:
    hint = getattr(exc, "hint", None) or "see /openapi.json for the form of every request"
    if code not in {"BAD_REQUEST", "METHOD"} and getattr(exc, "hint", None) is None:
        hint = "ask somebody who may do this, or change what stands in the way"
    form = {"ok": False, "code": code, "why": Exception.__str__(exc), "try": hint}
    if remaining_s is not None:
        form["remaining_s"] = remaining_s
    return JSONResponse(form, status_code=status)
