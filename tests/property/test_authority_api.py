"""The whole API under arbitrary requests: never a 5xx, and every failure has the one shape.

Requests are made from the API document: the values that it allows, values beside them, and tokens
that fit or do not.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dkey.authority.accounts import ENROLMENT
from dkey.authority.http import api_document, create_app
from dkey.authority.http_guard import Limits
from dkey.authority.routes import ROUTES
from dkey.authority.service import Authority
from dkey.crypto.p256 import PrivateKey
from dkey.errors import RefusalCode
from dkey.lifecycle.command_codec import COMMANDS
from dkey.lifecycle.commands import Found, Party
from dkey.testing import FakeClock, SeededEntropy

START = 1_800_000_000
VEHICLE = bytes(15) + b"\1"
OWNER, FRIEND = "owner@example.org", "friend@example.org"
OTHERS = {"BAD_REQUEST", "UNAUTHENTICATED", "NOT_FOUND", "METHOD", "OUTAGE", "TOO_LARGE"}
CODES = {code.value for code in RefusalCode} | OTHERS


class Served:
    """One authority with an owner, and what a request needs to reach it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock(START)
        self.authority = Authority.open(
            Path(self.folder.name) / "authority",
            create=True,
            entropy=SeededEntropy("api"),
            clock=self.clock,
        )
        admin = self.authority._folder.admin_token.reveal().decode()
        tokens = [admin]
        for account in (OWNER, FRIEND):
            tokens.append(self.authority.register_account(account))
            for purpose in ENROLMENT:
                self.authority.record_consent(account, account, purpose, version="1", channel="APP")
        point = PrivateKey.from_scalar(bytes(31) + b"\7").public.point
        tokens.append(
            self.authority.register_vehicle(
                VEHICLE, vin="KNA12345678901234", market="KR", profile="DK1", public_key=point
            )
        )
        found = Found(actor=OWNER, owner=Party(account=OWNER), key_x=bytes(32))
        self.authority.execute(VEHICLE, found)
        self.tokens = tokens
        admin = dict.fromkeys(("@authority", "@dealer", "@vehicle"), tokens[0])
        self.token_of = {**admin, OWNER: tokens[1], FRIEND: tokens[2]}
        self.app = create_app(
            self.authority,
            fake_clock=self.clock,
            limits=Limits(per_s=1e9, burst=1e9),
            now=lambda: 0.0,
        )
        self.document = api_document(self.authority)

    def send(self, method: str, path: str, **how) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://authority") as http:
                return await http.request(method, path, **how)

        return asyncio.run(ask())

    def close(self) -> None:
        self.authority.close()
        self.folder.cleanup()


@pytest.fixture(scope="module")
def served():
    served = Served()
    yield served
    served.close()


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.text(max_size=20),
    st.sampled_from(["\ud800", "\0", "", "9" * 300, "@authority"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)
STRINGS = st.sampled_from([OWNER, "@authority", VEHICLE.hex(), "00" * 16, "1"])
ITEMS = ["11" * 16, "22" * 16, "33" * 16]
ACTORS = [OWNER, OWNER, FRIEND, "@authority", "@dealer", "@vehicle"]
KNOWN = {
    "actor": ACTORS,
    "account": [OWNER, FRIEND, FRIEND, "nobody@example.org", "wash@example.org"],
    "provider": [FRIEND, OWNER],
    "vehicle": [VEHICLE.hex()] * 6 + ["00" * 16, "44" * 16],
    **dict.fromkeys(("item", "share_id", "card", "replaces"), ITEMS),
    "key_x": ["cd" * 32, "ef" * 32],
    "not_before_s": [0, START],
    "not_after_s": [START + 10**6, 2**40, 2**53 - 1],
    "vin": ["KNA12345678901235", "KNA1", "XWE12345678901234"],
    "market": ["KR", "RU"],
    "profile": ["DK1", "DK2", "mobikey-light", "none"],
    "advance_s": [0, 60, 86_400, 100 * 86_400],
    "epoch": [None, None, 1, 2, 3, 2**32],
}
"""Values that mean something to the authority, so that requests get past the form."""


def resolved(schema: dict, document: dict) -> dict:
    if "$ref" in schema:
        return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def fitting(schema: dict, document: dict, name: str = "") -> st.SearchStrategy:
    """Values that the schema allows, or nearly."""
    if name in KNOWN:
        return st.sampled_from(KNOWN[name])
    schema = resolved(schema, document)
    if "anyOf" in schema:
        return st.one_of(*(fitting(each, document) for each in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "object":
        parts = {
            name: fitting(each, document, name)
            for name, each in schema.get("properties", {}).items()
        }
        needed = {name: parts.pop(name) for name in schema.get("required", []) if name in parts}
        return st.fixed_dictionaries(needed, optional=parts)
    if kind == "integer":
        times = st.sampled_from([0, 1, 30, 90, START, START + 86_400, 2**53 - 1])
        return times | st.integers(0, 400)
    if kind == "string" and "pattern" in schema and "0-9a-f" in schema["pattern"]:
        return STRINGS | st.from_regex(schema["pattern"], fullmatch=True)
    kinds = {"string": STRINGS, "boolean": st.booleans(), "null": st.none()}
    return kinds.get(kind, JUNK)


def bent(values: st.SearchStrategy) -> st.SearchStrategy:
    """Bodies with one field put to something else, or away, or one too many."""

    @st.composite
    def make(draw):
        body = draw(values)
        name = draw(st.sampled_from([*body, "more"]))
        if draw(st.booleans()):
            return {**body, name: draw(JUNK)}
        return {key: value for key, value in body.items() if key != name}

    return make()


def request(draw, served: Served) -> tuple[str, str, dict, dict]:
    """Draw one request: method, path, what goes with it, and its operation in the document."""
    document = served.document
    path = draw(st.sampled_from(sorted(document["paths"])))
    method = draw(st.sampled_from(sorted(document["paths"][path])))
    operation = document["paths"][path][method]
    how: dict = {"params": {}, "headers": {}}
    actor = draw(st.sampled_from(ACTORS))
    for each in operation.get("parameters", []):
        name = each["name"]
        if each["in"] == "path":
            path = path.replace(f"{{{name}}}", str(draw(fitting(each["schema"], document, name))))
        elif each["in"] == "query":
            how["params"][name] = actor if name == "actor" else draw(STRINGS)
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        values = fitting(schema, document)
        kind = draw(st.sampled_from("ffffffffbbj"))  # a union would choose junk most often
        body = draw({"f": values, "b": bent(values), "j": JUNK}[kind])
        how["content"] = json.dumps(body).encode()
        how["headers"]["content-type"] = "application/json"
        told = body.get("actor") if isinstance(body, dict) else None
        actor = told if isinstance(told, str) else actor
    known = served.token_of.get(actor, "nonsense")
    token = draw(st.sampled_from([known] * 8 + [*served.tokens, "nonsense", ""]))
    how["headers"]["authorization"] = f"Bearer {token}"
    return method.upper(), path, how, operation


def test_no_request_ends_in_a_server_error(served):
    seen: Counter[int] = Counter()

    @settings(
        max_examples=600,
        deadline=None,
        derandomize=True,  # the counts below are of this one run
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.data())
    def any_request(data):
        method, path, how, operation = request(data.draw, served)
        answer = served.send(method, path, **how)
        seen[answer.status_code] += 1
        assert answer.status_code < 500, answer.text
        if answer.status_code < 400:
            return
        form = answer.json()
        assert form["ok"] is False
        assert form["code"] in CODES
        assert form["why"]
        assert form["try"]
        assert str(answer.status_code) in operation["responses"]

    any_request()
    assert seen[200] > 20, seen
    assert seen[409] > 10, seen


def test_every_command_has_exactly_one_route():
    assert sorted(route.command.__name__ for route in ROUTES) == sorted(COMMANDS)
    assert len({route.path for route in ROUTES}) == len(ROUTES)


def test_every_operation_has_a_name_a_summary_and_its_refusals(served):
    names = []
    for path, operations in served.document["paths"].items():
        for operation in operations.values():
            names.append(operation["operationId"])
            assert operation["summary"], path
            assert {"401", "409", "422"} <= operation["responses"].keys()
    assert len({*names}) == len(names)
    assert all(name.isalpha() and name[0].islower() for name in names)


def test_the_document_has_the_schema_of_every_command(served):
    schemas = served.document["components"]["schemas"]
    assert {f"{name}Form" for name in COMMANDS} - {"TickForm"} <= schemas.keys()
    assert schemas["InviteForm"]["properties"]["share_id"]["examples"]
    assert schemas["InviteForm"]["additionalProperties"] is False


def test_a_peer_that_asks_too_often_is_told_so(served):
    app = create_app(served.authority, limits=Limits(per_s=1, burst=2), now=lambda: 0.0)

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://authority") as http:
            return [(await http.get("/v1/health")).status_code for _ in range(3)]

    assert asyncio.run(ask()) == [200, 200, 429]


def test_a_body_that_comes_in_pieces_is_cut_off_at_the_limit(served):
    async def pieces():
        for _ in range(40):
            yield b"x" * 1000

    async def ask() -> int:
        transport = httpx.ASGITransport(app=served.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://authority") as http:
            return (await http.post("/v1/accounts", content=pieces())).status_code

    assert asyncio.run(ask()) == 413
