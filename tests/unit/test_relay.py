"""The relay over real loopback HTTP: what its mailboxes keep, for whom, and for how long."""

from __future__ import annotations

import threading
import traceback
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from relay_world import (
    HOUR_S,
    NOW_S,
    POSTGRES,
    SECRET_TEXT,
    World,
    invitation,
    sealed,
)

from dkey.errors import (
    LinkError,
    PolicyRefusal,
    RefusalCode,
    StoreError,
)
from dkey.relay.database import SCHEMA, open_database, sqlite_url
from dkey.relay.limits import Limits, RateLimit
from dkey.relay.messages import Display, Shown, Update

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path) -> Iterator[str]:
    """Give the URL of an empty database."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "relay")
        return
    if POSTGRES is None:
        pytest.skip("DKEY_TEST_POSTGRES is not set: no PostgreSQL to test against")
    psycopg = pytest.importorskip("psycopg")
    schema = f"t{uuid.uuid4().hex}"
    with psycopg.connect(POSTGRES, autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {schema}")
    mark = "&" if "?" in POSTGRES else "?"
    yield f"{POSTGRES}{mark}options=-csearch_path%3D{schema}"
    with psycopg.connect(POSTGRES, autocommit=True) as db:
        db.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def world(database) -> Iterator[World]:
    with World(database).running() as world:
        yield world


@pytest.fixture
def small(tmp_path) -> Iterator[World]:
    """Give a relay that takes little."""
    limits = Limits(body_bytes=2000, mailboxes=3, burst=10, per_s=0.5)
    with World(sqlite_url(tmp_path / "relay"), limits).running() as world:
        yield world


@contextmanager
def refused(code: RefusalCode) -> Iterator[None]:
    with pytest.raises(PolicyRefusal) as caught:
        yield
    assert caught.value.code is code


# --- the exchange --------------------------------------------------------------------------------


def test_an_invitation_an_answer_and_a_key_pass_and_the_friend_deletes_the_mailbox(world):
    owner, friend = world.device(), world.device()
    mailbox = owner.create(invitation())
    assert friend.read(mailbox).payload == sealed()
    friend.update(mailbox, sealed(b"KeySigningRequest"))
    assert owner.read(mailbox).payload == sealed(b"KeySigningRequest")
    owner.update(mailbox, sealed(b"KeyImportRequest"))
    assert friend.read(mailbox).payload == sealed(b"KeyImportRequest")
    friend.delete(mailbox)
    for device in (owner, friend, world.device()):
        with refused(RefusalCode.KEY_UNKNOWN):
            device.read(mailbox)


def test_the_identifier_is_a_random_uuid_of_version_4(world):
    found = {world.device().create(invitation()) for _ in range(20)}
    assert len(found) == 20
    assert {each.version for each in found} == {4}


def test_reading_twice_gives_the_same(world):
    owner, friend = world.device(), world.device()
    mailbox = owner.create(invitation())
    assert friend.read(mailbox) == friend.read(mailbox)


def test_a_third_device_may_do_nothing(world):
    owner, friend, thief = world.device(), world.device(), world.device()
    mailbox = owner.create(invitation())
    friend.read(mailbox)
    for act in (
        lambda: thief.read(mailbox),
        lambda: thief.update(mailbox, sealed(b"mine")),
        lambda: thief.delete(mailbox),
        lambda: thief.relinquish(mailbox),
    ):
        with refused(RefusalCode.NOT_AUTHORISED):
            act()
    assert friend.read(mailbox).payload == sealed()


def test_of_many_first_readers_at_once_exactly_one_binds(world):
    mailbox = world.device().create(invitation())
    devices = [world.device() for _ in range(8)]
    outcomes = []

    def race(device):
        try:
            outcomes.append(device.read(mailbox).payload)
        except PolicyRefusal as exc:
            outcomes.append(exc.code)

    threads = [threading.Thread(target=race, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(map(str, outcomes)) == sorted(
        map(str, [sealed()] + [RefusalCode.NOT_AUTHORISED] * 7)
    )


def test_who_has_not_read_may_not_write_or_delete(world):
    mailbox = world.device().create(invitation())
    stranger = world.device()
    with refused(RefusalCode.NOT_AUTHORISED):
        stranger.update(mailbox, sealed(b"x"))
    with refused(RefusalCode.NOT_AUTHORISED):
        stranger.delete(mailbox)


def test_looking_at_the_display_information_binds_nobody(world):
    owner, looker, friend = world.device(), world.device(), world.device()
    mailbox = owner.create(invitation())
    assert looker.display(mailbox) == Shown(
        display=invitation().display, expires_s=NOW_S + 24 * HOUR_S
    )
    assert friend.read(mailbox).payload == sealed()


def test_the_owner_reading_first_does_not_become_the_receiver(world):
    owner, friend = world.device(), world.device()
    mailbox = owner.create(invitation())
    owner.read(mailbox)
    assert friend.read(mailbox).payload == sealed()


@pytest.mark.parametrize("rights", ["R", "RW", "RD", "RWD"])
def test_the_receiver_has_the_rights_that_the_sender_gave(world, rights):
    owner, friend = world.device(), world.device()
    mailbox = owner.create(invitation(rights=rights))
    friend.read(mailbox)
    for right, act in (
        ("W", lambda: friend.update(mailbox, sealed(b"answer"))),
        ("D", lambda: friend.delete(mailbox)),
    ):
        if right in rights:
            act()
        else:
            with refused(RefusalCode.NOT_AUTHORISED):
                act()


def test_the_sender_may_write_and_delete_whatever_the_receiver_may(world):
    owner = world.device()
    mailbox = owner.create(invitation(rights="R"))
    owner.update(mailbox, sealed(b"again"))
    owner.delete(mailbox)
    with refused(RefusalCode.KEY_UNKNOWN):
        owner.read(mailbox)


def test_a_receiver_that_relinquishes_lets_another_device_in_and_is_out(world):
    owner, friend, other = world.device(), world.device(), world.device()
    mailbox = owner.create(invitation())
    friend.read(mailbox)
    friend.relinquish(mailbox)
    assert other.read(mailbox).payload == sealed()
    with refused(RefusalCode.NOT_AUTHORISED):
        friend.read(mailbox)


def test_a_receiver_that_has_answered_may_not_relinquish(world):
    owner, friend = world.device(), world.device()
    mailbox = owner.create(invitation())
    friend.read(mailbox)
    friend.update(mailbox, sealed(b"KeySigningRequest"))
    with refused(RefusalCode.NOT_AUTHORISED):
        friend.relinquish(mailbox)


def test_the_sender_may_not_relinquish(world):
    owner = world.device()
    mailbox = owner.create(invitation())
    with refused(RefusalCode.NOT_AUTHORISED):
        owner.relinquish(mailbox)


# --- time ----------------------------------------------------------------------------------------


def test_a_mailbox_is_gone_at_its_expiration_and_not_before(world):
    owner = world.device()
    mailbox = owner.create(invitation(hours=1))
    world.clock.advance(HOUR_S - 1)
    owner.read(mailbox)
    world.clock.advance(1)
    with refused(RefusalCode.KEY_UNKNOWN):
        owner.read(mailbox)
    with refused(RefusalCode.KEY_UNKNOWN):
        owner.display(mailbox)


def test_what_has_expired_is_purged(world):
    owner = world.device()
    owner.create(invitation(hours=1))
    owner.create(invitation(hours=2))
    assert world.store.purge() == 0
    world.clock.advance(HOUR_S)
    assert world.store.purge() == 1
    assert world.store.purge() == 0


@pytest.mark.parametrize("hours", [-1, 0, 48.01, 10_000])
def test_an_expiration_in_the_past_or_beyond_48_h_is_refused(world, hours):
    assert world.raw("POST", content=invitation(hours=hours).to_bytes()).status_code == 400


def test_48_h_are_taken(world):
    assert world.raw("POST", content=invitation(hours=48).to_bytes()).status_code == 201


# --- uniform answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH", "PUT"])
def test_unknown_expired_deleted_and_malformed_are_answered_alike(world, method):
    owner = world.device()
    expired, deleted = owner.create(invitation(hours=1)), owner.create(invitation())
    owner.delete(deleted)
    world.clock.advance(HOUR_S)
    unknown = uuid.UUID(int=7, version=4)
    body = Update(payload=sealed()).to_bytes() if method == "PUT" else b""
    answers = {
        (answer.status_code, answer.content, *sorted(answer.headers.keys()))
        for answer in (
            world.raw(method, f"/{which}", content=body)
            for which in (unknown, expired, deleted, "nonsense", str(unknown).upper())
        )
    }
    assert len(answers) == 1
    assert answers.pop()[0] == 404


# --- repeated requests ---------------------------------------------------------------------------


def test_a_repeated_create_makes_one_mailbox(world):
    owner, number = world.device(), uuid.UUID(int=5, version=4)
    message = invitation()
    assert owner.create(message, request_id=number) == owner.create(message, request_id=number)


def test_without_a_request_id_a_repetition_is_a_new_request(world):
    body = invitation().to_bytes()
    first, second = (world.raw("POST", content=body).json() for _ in range(2))
    assert first != second


def test_a_repeated_delete_is_answered_as_the_first_one(world):
    owner, number = world.device(), uuid.UUID(int=5, version=4)
    mailbox = owner.create(invitation())
    owner.delete(mailbox, request_id=number)
    owner.delete(mailbox, request_id=number)
    with refused(RefusalCode.KEY_UNKNOWN):
        owner.delete(mailbox)


def test_a_repeated_update_does_not_undo_a_later_one(world):
    owner, number = world.device(), uuid.UUID(int=5, version=4)
    mailbox = owner.create(invitation())
    owner.update(mailbox, sealed(b"first"), request_id=number)
    owner.update(mailbox, sealed(b"second"))
    owner.update(mailbox, sealed(b"first"), request_id=number)
    assert owner.read(mailbox).payload == sealed(b"second")


def test_a_request_id_does_not_serve_for_another_request(world):
    number = {"Mailbox-Request-ID": str(uuid.UUID(int=5, version=4))}
    one = world.raw("POST", content=invitation().to_bytes(), headers=number)
    two = world.raw("POST", content=invitation(rights="R").to_bytes(), headers=number)
    assert (one.status_code, two.status_code) == (201, 409)


def test_two_devices_may_use_the_same_request_id(world):
    number = uuid.UUID(int=5, version=4)
    message = invitation()
    one, two = (world.device().create(message, request_id=number) for _ in range(2))
    assert one != two


def test_a_request_is_known_for_an_hour(world):
    owner, number = world.device(), uuid.UUID(int=5, version=4)
    message = invitation()
    first = owner.create(message, request_id=number)
    world.clock.advance(HOUR_S - 1)
    assert owner.create(message, request_id=number) == first
    world.clock.advance(1)
    assert owner.create(message, request_id=number) != first


def test_the_same_create_many_times_at_once_makes_one_mailbox(world):
    owner, number = world.device(), uuid.UUID(int=5, version=4)
    message, made = invitation(), []
    threads = [
        threading.Thread(target=lambda: made.append(owner.create(message, request_id=number)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(made) == 6
    assert len({*made}) == 1


# --- headers and pages --------------------------------------------------------------------------


def test_a_request_without_a_claim_is_refused(world):
    mailbox = world.device().create(invitation())
    for method in ("POST", "DELETE", "PATCH"):
        assert world.raw(method, f"/{mailbox}", claim=None).status_code == 401


@pytest.mark.parametrize("claim", ["", "1", "x" * 36, uuid.UUID(int=1).hex])
def test_a_claim_that_is_no_uuid_is_refused(small, claim):
    answer = small.raw("POST", content=invitation().to_bytes(), claim=claim)
    assert answer.status_code == 400


def test_an_attestation_is_taken_as_it_is_but_not_at_any_length(small):
    for text, status in (("anything", 201), ("x" * 8193, 400)):
        headers = {"Mailbox-Device-Attestation": text}
        answer = small.raw("POST", content=invitation().to_bytes(), headers=headers)
        assert answer.status_code == status


def test_the_page_for_people_runs_nothing_that_a_sender_wrote(world):
    shown = Display(title="<script>alert(1)</script>", description='"><img src=x>')
    mailbox = world.device().create(invitation(display=shown))
    answer = world.raw("GET", f"/{mailbox}", claim=None, headers={"Accept": "text/html"})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in answer.text
    assert "<img" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_no_answer_may_be_kept_by_a_cache(world):
    mailbox = world.device().create(invitation())
    for answer in (world.raw("GET", f"/{mailbox}"), world.raw("GET", "/nothing")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_there_are_no_documentation_pages(small):
    for path in ("docs", "redoc", "openapi.json"):
        assert small.http.get(f"{small.url}/{path}").status_code == 404


# --- limits --------------------------------------------------------------------------------------


def test_a_body_over_the_limit_is_refused_however_it_comes(small):
    def chunks():
        for _ in range(5):
            yield b"x" * 1000

    assert small.raw("POST", content=b"x" * 2001).status_code == 413
    assert small.raw("POST", content=chunks()).status_code == 413


def test_a_full_relay_takes_no_more_until_something_goes(small):
    owner = small.device()
    mailboxes = [owner.create(invitation(hours=1)) for _ in range(3)]
    with pytest.raises(LinkError, match="503"):
        owner.create(invitation())
    owner.delete(mailboxes[0])
    owner.create(invitation(hours=1))
    small.clock.advance(HOUR_S)
    owner.create(invitation(small.clock()))


def test_a_client_that_asks_too_often_waits(small):
    for _ in range(10):
        assert small.raw("GET", "/nothing").status_code == 404
    late = small.raw("GET", "/nothing")
    assert (late.status_code, late.headers["retry-after"]) == (429, "2")
    with refused(RefusalCode.TOO_SOON):
        small.device().create(invitation())
    small.ticks.advance(2)
    assert small.raw("GET", "/nothing").status_code == 404
    assert small.raw("GET", "/nothing").status_code == 429


def test_clients_are_limited_one_by_one_and_an_ipv6_network_is_one_client():
    rate = RateLimit(Limits(burst=1, per_s=1))
    assert rate.wait_s("192.0.2.1", 0) == 0
    assert rate.wait_s("192.0.2.2", 0) == 0
    assert rate.wait_s("192.0.2.1", 0.25) == 0.75
    assert rate.wait_s("2001:db8::1", 0) == 0
    assert rate.wait_s("2001:db8::2", 0) > 0
    assert rate.wait_s("2001:db8:0:1::2", 0) == 0
    assert rate.wait_s("::ffff:192.0.2.3", 0) == 0
    assert rate.wait_s("192.0.2.3", 0) > 0


def test_a_clock_that_stands_or_steps_back_gives_nothing():
    rate = RateLimit(Limits(burst=1, per_s=1))
    assert rate.wait_s("192.0.2.1", 10) == 0
    assert rate.wait_s("192.0.2.1", 5) > 0
    assert rate.wait_s("192.0.2.1", 5) > 0


def test_a_client_makes_few_mailboxes_however_many_requests_it_has_left(tmp_path):
    limits = Limits(burst=1000, creates_burst=2, creates_per_s=0.1)
    with World(sqlite_url(tmp_path / "relay"), limits).running() as world:
        owner = world.device()
        mailbox = owner.create(invitation())
        owner.create(invitation())
        with refused(RefusalCode.TOO_SOON):
            owner.create(invitation())
        assert owner.read(mailbox).payload == sealed()
        world.ticks.advance(10)
        owner.create(invitation())


# --- what is kept --------------------------------------------------------------------------------


def test_mailboxes_bindings_and_requests_outlive_a_restart(database):
    number = uuid.UUID(int=5, version=4)
    with World(database).running() as first:
        owner, friend, third = first.device(), first.device(), first.device()
        message = invitation()
        mailbox = owner.create(message, request_id=number)
        friend.read(mailbox)
        port = first.url
    with World(database).running() as second:
        for device in (owner, friend, third):
            device._base = device._base.replace(port, second.url)
            device._http = second.http
        assert friend.read(mailbox).payload == sealed()
        assert owner.create(message, request_id=number) == mailbox
        with refused(RefusalCode.NOT_AUTHORISED):
            third.read(mailbox)


def test_the_files_hold_neither_plaintext_nor_claims(tmp_path):
    folder = tmp_path / "relay"
    with World(sqlite_url(folder)).running() as world:
        owner, friend = world.device(), world.device()
        mailbox = owner.create(invitation())
        friend.read(mailbox)
        friend.update(mailbox, sealed(b"answer " + SECRET_TEXT))
        kept = b"".join(path.read_bytes() for path in folder.iterdir())
        # The look would find what is there: the ciphertext is, and the identifier.
        assert sealed(b"answer " + SECRET_TEXT).data in kept
        assert str(mailbox).encode() in kept
        assert SECRET_TEXT not in kept
        for device in (owner, friend):
            claim = uuid.UUID(device._headers["Mailbox-Device-Claim"])
            for form in (str(claim).encode(), claim.bytes, claim.hex.encode()):
                assert form not in kept


@pytest.mark.parametrize("how", ["deleted", "expired"])
def test_what_is_over_is_not_left_in_the_files_after_a_purge(tmp_path, how):
    folder = tmp_path / "relay"
    with World(sqlite_url(folder)).running() as world:
        owner = world.device()
        mailbox = owner.create(invitation(hours=1))
        owner.delete(mailbox) if how == "deleted" else world.clock.advance(HOUR_S)
        assert sealed().data in b"".join(path.read_bytes() for path in folder.iterdir())
        world.store.purge()
        assert sealed().data not in b"".join(path.read_bytes() for path in folder.iterdir())


def test_nothing_that_was_sent_is_logged(tmp_path, caplog):
    caplog.set_level(1)
    with World(sqlite_url(tmp_path / "relay")).running() as world:
        owner = world.device()
        owner.create(invitation())
        world.raw("POST", content=invitation().to_bytes()[:-1])
    server_side = [each for each in caplog.records if not each.name.startswith("http")]
    assert sealed().to_json()["data"] not in "".join(each.getMessage() for each in server_side)


def test_a_database_that_fails_is_a_503_and_no_traceback_has_a_value(small):
    with small.store._engine.begin() as db:
        db.exec_driver_sql("DROP TABLE relay_mailboxes")
    assert small.raw("GET", f"/{uuid.UUID(int=1, version=4)}").status_code == 503
    with pytest.raises(StoreError) as caught:
        small.store.display(uuid.UUID(int=1, version=4))
    told = "".join(traceback.format_exception(caught.value))
    assert "relay_mailboxes" in told
    assert str(uuid.UUID(int=1, version=4)) not in told


def test_a_database_of_a_newer_program_is_refused(database):
    engine = open_database(database)
    with engine.begin() as db:
        db.execute(SCHEMA.update().values(version=2))
    engine.dispose()
    with pytest.raises(StoreError, match="schema version"):
        open_database(database)


@pytest.mark.parametrize(
    "url", ["mysql://u@h/n", "sqlite://", "sqlite:///:memory:", "nonsense", "sqlite+x:///a"]
)
def test_other_databases_are_refused(url):
    with pytest.raises(StoreError):
        open_database(url)


def test_a_database_that_is_away_is_a_store_error_without_the_password():
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as caught:
        open_database("postgresql://u:hunter2@127.0.0.1:1/n?connect_timeout=2")
    assert "hunter2" not in str(caught.value) + str(caught.value.hint)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path):
    url = sqlite_url(tmp_path / "relay")
    path = tmp_path / "relay" / "relay.db"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(StoreError):
        open_database(url)
    assert path.read_bytes() == b"something else" * 100


def test_a_file_that_others_may_read_is_refused(tmp_path):
    sqlite_url(tmp_path / "relay")
    (tmp_path / "relay" / "relay.db").chmod(0o644)
    with pytest.raises(StoreError, match="open to other users"):
        sqlite_url(tmp_path / "relay")
