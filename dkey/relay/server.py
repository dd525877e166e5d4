"""The relay's HTTP interface (specs/relay.md §2 and §4).

Nothing that a client sent is logged, and no error repeats it. A client learns of a mailbox only
what its claim lets it; one that never was, has expired or was deleted is the same to everybody.
"""

from __future__ import annotations

import asyncio
import html
import json
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dkey.errors import StoreError, WireError
from dkey.relay.limits import Limits, RateLimit
from dkey.relay.messages import (
    Create,
    Display,
    Update,
    parse_device_claim,
    parse_mailbox_id,
    to_timestamp,
)
from dkey.relay.store import Caller, RelayRefusal, unknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from uuid import UUID

    from dkey.relay.messages import Shown
    from dkey.relay.store import RelayStore

__all__ = ["ATTESTATION", "CLAIM", "REQUEST_ID", "relay_app"]

REQUEST_ID: Final = "Mailbox-Request-ID"
CLAIM: Final = "Mailbox-Device-Claim"
ATTESTATION: Final = "Mailbox-Device-Attestation"
_MAILBOXES: Final = "/v1/m"
_ATTESTATION_MAX: Final = 8192
_BODY_S: Final = 10.0
"""A request's body must have arrived within this time."""
_PURGE_S: Final = 60.0
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_NO_DISPLAY: Final = Display(
    title="A digital key for you", description="Somebody wants to share a key."
)
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>{description}</p><p>Until {expiration}. Open this link on a phone
that can take a digital key.</p></body></html>
"""


def relay_app(
    store: RelayStore, *, limits: Limits, monotonic: Callable[[], float], purge_s: float = _PURGE_S
) -> FastAPI:
    """Return the ASGI application.

    Args:
        store: Where the mailboxes are; stays open.
        limits: What is taken.
        monotonic: Seconds of a clock that never steps, for the limit of requests.
        purge_s: Time between two looks for what has expired.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        purging = asyncio.create_task(_purge_forever(store, purge_s))
        try:
            yield
        finally:
            purging.cancel()
            with suppress(asyncio.CancelledError):
                await purging

    # No documentation pages: they would load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _add_routes(app, store, limits)
    _add_errors(app)
    rate, creates = RateLimit(limits), RateLimit(limits.of_creates())

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        address = request.client.host if request.client else "unknown"
        wait_s = rate.wait_s(address, monotonic())
        if wait_s == 0 and (request.method, request.url.path) == ("POST", _MAILBOXES):
            wait_s = creates.wait_s(address, monotonic())
        if wait_s > 0:
            response = _refused(RelayRefusal(429, "too many requests", retry_s=wait_s))
        else:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    return app


def _add_routes(app: FastAPI, store: RelayStore, limits: Limits) -> None:
    @app.post(_MAILBOXES)
    async def create(request: Request) -> Response:
        body = await _body(request, limits)
        caller = _caller(request, body)
        message = Create.parse(body)
        mailbox_id = await run_in_threadpool(store.create, caller, message)
        return _json(201, {"mailboxIdentifier": str(mailbox_id)})

    @app.put("/v1/m/{mailbox}")
    async def update(request: Request, mailbox: str) -> Response:
        where = _mailbox(mailbox)
        body = await _body(request, limits)
        caller = _caller(request, body)
        message = Update.parse(body)
        await run_in_threadpool(store.update, caller, where, message.payload)
        return Response(status_code=204)

    @app.post("/v1/m/{mailbox}")
    async def read(request: Request, mailbox: str) -> Response:
        where = _mailbox(mailbox)
        caller = _caller(request, await _nothing(request, limits))
        opened = await run_in_threadpool(store.read, caller, where)
        return Response(opened.to_bytes(), media_type="application/json")

    @app.get("/v1/m/{mailbox}")
    async def display(request: Request, mailbox: str) -> Response:
        shown = await run_in_threadpool(store.display, _mailbox(mailbox))
        if "text/html" in request.headers.get("accept", ""):
            return Response(_page(shown), media_type="text/html; charset=utf-8")
        return Response(shown.to_bytes(), media_type="application/json")

    @app.delete("/v1/m/{mailbox}")
    async def delete(request: Request, mailbox: str) -> Response:
        where = _mailbox(mailbox)
        caller = _caller(request, await _nothing(request, limits))
        await run_in_threadpool(store.delete, caller, where)
        return Response(status_code=204)

    @app.patch("/v1/m/{mailbox}")
    async def relinquish(request: Request, mailbox: str) -> Response:
        where = _mailbox(mailbox)
        caller = _caller(request, await _nothing(request, limits))
        await run_in_threadpool(store.relinquish, caller, where)
        return Response(status_code=204)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RelayRefusal)
    async def refused(_request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RelayRefusal)
        return _refused(exc)

    @app.exception_handler(WireError)
    async def malformed(_request: Request, exc: Exception) -> Response:
        return _refused(RelayRefusal(400, str(exc)))

    @app.exception_handler(StoreError)
    async def failed(_request: Request, _exc: Exception) -> Response:
        return _refused(RelayRefusal(503, "the relay cannot keep anything now", retry_s=5))

    @app.exception_handler(HTTPException)
    async def other(_request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        if exc.status_code == 404:
            return _refused(unknown())
        return _refused(RelayRefusal(exc.status_code, str(exc.detail).lower()))


async def _purge_forever(store: RelayStore, every_s: float) -> None:
    while True:
        with suppress(StoreError):  # a database that is away for a while is asked again
            await run_in_threadpool(store.purge)
        await asyncio.sleep(every_s)


# ---- requests ------------------------------------------------------------------------------------


def _mailbox(text: str) -> UUID:
    try:
        return parse_mailbox_id(text)
    except WireError as exc:
        raise unknown() from exc


def _caller(request: Request, body: bytes) -> Caller:
    """Take who asks from the headers; what a device attests of itself is not judged here."""
    claim = request.headers.get(CLAIM)
    if claim is None:
        raise RelayRefusal(401, f"{CLAIM} is missing")
    if len(request.headers.get(ATTESTATION, "")) > _ATTESTATION_MAX:
        raise WireError(f"{ATTESTATION} is longer than {_ATTESTATION_MAX}")
    request_id = request.headers.get(REQUEST_ID)
    digest = sha256()
    for part in (request.method.encode(), request.url.path.encode(), body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return Caller(
        claim=parse_device_claim(claim, CLAIM),
        request_id=None if request_id is None else parse_device_claim(request_id, REQUEST_ID),
        digest=digest.digest(),
    )


async def _body(request: Request, limits: Limits) -> bytes:
    """Read the body, never more than the limit."""
    too_large = RelayRefusal(413, f"a request has at most {limits.body_bytes} bytes")
    size = request.headers.get("content-length", "0")
    if not (size.isascii() and size.isdigit()) or int(size[:20]) > limits.body_bytes:
        raise too_large
    found = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                found += chunk
                if len(found) > limits.body_bytes:
                    raise too_large
    except TimeoutError as exc:
        raise RelayRefusal(408, "the request did not arrive in time") from exc
    return bytes(found)


async def _nothing(request: Request, limits: Limits) -> bytes:
    body = await _body(request, limits)
    if body not in (b"", b"{}"):
        raise WireError("this request has no body", clause="specs/relay.md §2")
    return b""


# ---- answers -------------------------------------------------------------------------------------


def _json(status: int, value: dict[str, Any]) -> Response:
    return Response(json.dumps(value), status_code=status, media_type="application/json")


def _refused(refusal: RelayRefusal) -> Response:
    response = _json(refusal.status, {"error": str(refusal)})
    if refusal.retry_s is not None:
        response.headers["Retry-After"] = str(max(1, round(refusal.retry_s + 0.5)))
    return response


def _page(shown: Shown) -> str:
    display = shown.display or _NO_DISPLAY
    return _PAGE.format(
        title=html.escape(display.title),
        description=html.escape(display.description),
        expiration=to_timestamp(shown.expires_s),
    )
