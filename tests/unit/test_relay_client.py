"""What the relay's client makes of answers, and the messages between them."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_world import NOW_S, World, invitation, sealed

from dkey.errors import LinkError, LinkReason, LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.relay.client import RelayClient
from dkey.relay.database import sqlite_url
from dkey.relay.limits import Limits
from dkey.relay.messages import Create, Opened, Payload, Update
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def relay(tmp_path_factory) -> Iterator[World]:
    limits = Limits(body_bytes=2000, burst=10_000)
    folder = tmp_path_factory.mktemp("relay")
    with World(sqlite_url(folder / "relay"), limits).running() as world:
        yield world


# --- the form of requests and answers ------------------------------------------------------------


def without(**changes):
    value = json.loads(invitation().to_bytes())
    for name, each in changes.items():
        value.pop(name, None) if each is None else value.__setitem__(name, each)
    return json.dumps(value).encode()


BASE64 = sealed().to_json()["data"]
PAYLOAD = sealed().to_json()
MALFORMED = {
    "no JSON": b"{",
    "not an object": b"[]",
    "too deep": b"[" * 30_000,
    "a name twice": b'{"payload":1,' + invitation().to_bytes()[1:],
    "not UTF-8": b"\xff",
    "no payload": without(payload=None),
    "no expiration": without(expiration=None),
    "an unknown field": without(secret="x"),
    "another algorithm": without(payload={**PAYLOAD, "type": "NONE"}),
    "a list as algorithm": without(payload={**PAYLOAD, "type": ["AEAD_AES_128_GCM"]}),
    "no base64": without(payload={**PAYLOAD, "data": "###"}),
    "base64 of a tag only": without(payload={**PAYLOAD, "data": BASE64[:32]}),
    "data that is no text": without(payload={**PAYLOAD, "data": 5}),
    "rights in another order": without(accessRights="WR"),
    "no right to read": without(accessRights="WD"),
    "rights as a list": without(accessRights=["R"]),
    "an expiration without zone": without(expiration="2027-01-16T00:00:00"),
    "the 31st of February": without(expiration="2027-02-31T00:00:00Z"),
    "an expiration as a number": without(expiration=NOW_S + 60),
    "an image over http": without(
        displayInformation={"title": "t", "description": "d", "imageURL": "http://a/b"}
    ),
    "a script as image": without(
        displayInformation={"title": "t", "description": "d", "imageURL": "javascript:1"}
    ),
    "no title": without(displayInformation={"description": "d"}),
    "a long title": without(displayInformation={"title": "t" * 121, "description": "d"}),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_create_is_a_400_that_repeats_nothing(relay, body):
    answer = relay.raw("POST", content=body)
    assert answer.status_code in (400, 413)
    assert BASE64 not in answer.text
    with pytest.raises(WireError):
        Create.parse(body)


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(data):
    for kind in (Create, Update, Opened):
        with pytest.raises(WireError):
            kind.parse(data)


@given(
    data=st.binary(min_size=29, max_size=300),
    algorithm=st.sampled_from(["AEAD_AES_128_GCM", "AEAD_AES_256_GCM"]),
    rights=st.sampled_from(["R", "RW", "RD", "RWD"]),
    expires_s=st.integers(0, 4_000_000_000),
)
def test_messages_parse_to_what_they_were(data, algorithm, rights, expires_s):
    payload = Payload(algorithm=algorithm, data=data)
    create = Create(payload=payload, rights=rights, expires_s=expires_s)
    opened = Opened(payload=payload, expires_s=expires_s)
    assert Create.parse(create.to_bytes()) == create
    assert Opened.parse(opened.to_bytes()) == opened
    assert Update.parse(Update(payload=payload).to_bytes()) == Update(payload=payload)


# --- the client ----------------------------------------------------------------------------------


class Flaky(httpx.BaseTransport):
    """A way to the relay that loses some answers, after the relay has acted."""

    def __init__(self, lost: int, real: httpx.BaseTransport | None = None) -> None:
        self.lost = lost
        self.real = real or httpx.HTTPTransport()
        self.numbers: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.numbers.append(request.headers["Mailbox-Request-ID"])
        answer = self.real.handle_request(request)
        if self.lost:
            self.lost -= 1
            answer.read()
            answer.close()
            raise httpx.ReadError("lost")
        return answer

    def close(self) -> None:
        self.real.close()


def held(relay: World) -> int:
    """Return how many mailboxes there are."""
    with relay.store._engine.begin() as db:
        return db.exec_driver_sql("SELECT count(*) FROM relay_mailboxes").scalar()


def test_a_lost_answer_is_asked_for_again_with_the_same_number(relay):
    flaky, before = Flaky(2), held(relay)
    with httpx.Client(transport=flaky) as http:
        client = RelayClient(
            relay.url, claim=uuid.UUID(int=9), entropy=SeededEntropy("c"), http=http
        )
        mailbox = client.create(invitation())
        assert client.read(mailbox).payload == sealed()
    assert len({*flaky.numbers[:3]}) == 1
    assert held(relay) == before + 1


def test_three_lost_answers_are_a_link_error(relay):
    with httpx.Client(transport=Flaky(3)) as http:
        client = RelayClient(
            relay.url, claim=uuid.UUID(int=9), entropy=SeededEntropy("c"), http=http
        )
        with pytest.raises(LinkError) as caught:
            client.create(invitation())
    assert caught.value.reason is LinkReason.LOST


ANSWERS = [
    (200, b"{"),
    (200, b"[]"),
    (200, b'{"mailboxIdentifier": 5}'),
    (200, b'{"mailboxIdentifier": "00000000-0000-0000-0000-000000000001"}'),
    (200, b"x" * 300_000),
    (302, b""),
    (400, b""),
    (500, b""),
]


@pytest.mark.parametrize(("status", "body"), ANSWERS)
def test_what_is_no_answer_of_a_relay_is_a_link_error(status, body):
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    with httpx.Client(transport=transport) as http:
        client = RelayClient(
            "https://relay.example", claim=uuid.UUID(int=9), entropy=SeededEntropy("c"), http=http
        )
        for act in (
            lambda: client.create(invitation()),
            lambda: client.read(uuid.UUID(int=1)),
            lambda: client.display(uuid.UUID(int=1)),
        ):
            with pytest.raises(LinkError):
                act()


STATUSES = {
    401: RefusalCode.NOT_AUTHORISED,
    403: RefusalCode.NOT_AUTHORISED,
    404: RefusalCode.KEY_UNKNOWN,
    429: RefusalCode.TOO_SOON,
}


@pytest.mark.parametrize(("status", "code"), STATUSES.items())
def test_a_refusal_of_the_relay_has_a_code_and_advice_and_is_asked_once(status, code):
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, headers={"Retry-After": "7"})

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = RelayClient(
            "https://relay.example", claim=uuid.UUID(int=9), entropy=SeededEntropy("c"), http=http
        )
        with pytest.raises(PolicyRefusal) as caught:
            client.delete(uuid.UUID(int=1))
    assert caught.value.code is code
    assert caught.value.hint
    assert caught.value.remaining_s == (7 if status == 429 else None)
    assert len(asked) == 1


@pytest.mark.parametrize("base", ["http://relay.example", "ftp://x", "relay.example"])
def test_a_client_takes_no_relay_without_tls(base):
    with pytest.raises(LocalFault):
        RelayClient(base, claim=uuid.UUID(int=9), entropy=SeededEntropy("c"))


def test_a_relay_that_is_not_there_is_a_link_error():
    with (
        httpx.Client(trust_env=False) as http,
        pytest.raises(LinkError, match="cannot be reached"),
    ):
        RelayClient(
            "http://127.0.0.1:1", claim=uuid.UUID(int=9), entropy=SeededEntropy("c"), http=http
        ).read(uuid.UUID(int=1))
