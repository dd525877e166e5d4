"""The client has the methods of the authority, and its errors."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import httpx
import pytest

from dkey.authority.accounts import UnknownError
from dkey.authority.client import AuthorityClient
from dkey.authority.core import OutageError
from dkey.authority.http_access import UnauthenticatedError
from dkey.authority.routes import ROUTES, route_of
from dkey.authority.service import Authority
from dkey.errors import LinkError, LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.commands import Pause, Revoke

OWN = {"close", "advance"}
NOT_OVER_HTTP = {"open", "tick", "authenticates", "holds_key"}
PAUSE = Pause(actor="ann@example.org", days=3)


def public(cls):
    return {name for name in dir(cls) if not name.startswith("_")}


def test_client_and_authority_have_the_same_methods():
    assert public(Authority) - NOT_OVER_HTTP - OWN == public(AuthorityClient) - OWN


@pytest.mark.parametrize("name", sorted(public(AuthorityClient) - OWN - {"public_key"}))
def test_what_the_authority_takes_its_client_takes(name):
    own = inspect.signature(getattr(Authority, name)).parameters
    client = inspect.signature(getattr(AuthorityClient, name)).parameters
    assert [*client][: len(own)] == [*own] or name in {"audit_log", "begin_outage"}


def answering(status: int, body: object, **how):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=content, **how)

    return AuthorityClient("http://authority", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NOT_FOUND", UnknownError),
        ("OUTAGE", OutageError),
        ("UNAUTHENTICATED", UnauthenticatedError),
        ("BAD_REQUEST", LocalFault),
        ("SHARE_LIMIT", PolicyRefusal),
    ],
)
def test_a_refusal_becomes_the_error_of_the_authority_in_process(code, kind):
    form = {"ok": False, "code": code, "why": "because", "try": "later"}
    with answering(409, form) as client, pytest.raises(kind, match="because") as raised:
        client.execute(bytes(16), PAUSE)
    assert raised.value.hint == "later"


def test_a_refusal_keeps_the_seconds_that_remain():
    form = {"ok": False, "code": "TOO_SOON", "why": "wait", "try": "wait", "remaining_s": 12.5}
    with answering(409, form) as client, pytest.raises(PolicyRefusal) as raised:
        client.execute(bytes(16), PAUSE)
    assert (raised.value.code, raised.value.remaining_s) == (RefusalCode.TOO_SOON, 12.5)


@pytest.mark.parametrize("body", [b"<html>", [], {"ok": False}, {"queued": True}])
def test_an_answer_that_is_none_of_ours_is_malformed(body):
    with answering(200, body) as client, pytest.raises(WireError):
        client.execute(bytes(16), PAUSE)


def test_no_answer_is_a_link_fault():
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody is there")

    transport = httpx.MockTransport(lost)
    client = AuthorityClient("http://authority", transport=transport)
    with client, pytest.raises(LinkError) as raised:
        client.execute(bytes(16), PAUSE)
    assert raised.value.transient


def test_the_token_of_the_actor_goes_with_a_request():
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json={"ok": True, "queued": False, "number": 1, "effects": []})

    transport = httpx.MockTransport(answer)
    tokens = {"ann@example.org": "t1", "bob@example.org": "t2"}
    with AuthorityClient("http://authority", tokens, transport=transport) as client:
        client.execute(bytes(16), PAUSE)
    assert seen == ["Bearer t1"]


def test_a_command_about_a_share_has_it_in_the_path_only():
    item = bytes(range(16))
    path, body = route_of(Revoke(actor="ann@example.org", item=item))
    assert path == f"/shares/{item.hex()}/revoke"
    assert body == {"actor": "ann@example.org"}


def test_every_route_names_a_field_of_its_command():
    for route in ROUTES:
        assert (route.item is not None) == ("{item}" in route.path)


@pytest.mark.parametrize("module", ["service", "client"])
def test_neither_the_service_nor_its_client_loads_a_web_framework(module):
    code = (
        f"import sys, dkey.authority.{module}\n"
        "print({'fastapi', 'uvicorn', 'pydantic', 'starlette'} & {*sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
