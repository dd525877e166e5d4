"""The vehicle's durable memory: what was committed stays, what is damaged does not open."""

from __future__ import annotations

import random
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from dkey.control.touch import Position
from dkey.crypto.p256 import PrivateKey
from dkey.errors import LocalFault, PolicyRefusal, StoreError
from dkey.errors import RefusalCode as Code
from dkey.lifecycle.policy import INITIAL_CARDS, MAX_CARDS, MAX_FAST_CANDIDATES
from dkey.lifecycle.roles import CardProvenance, CredentialState, Permission, Role
from firmware_mock.records import Credential, Ownership, ReaderIdentity, VehicleIdentity
from firmware_mock.store import CredentialStore
from firmware_mock.store_schema import APPLICATION_ID, MIGRATIONS, credential_row, insert

HANDLE, PAD = b"H" * 16, b"P" * 16


def point(number):
    return PrivateKey.from_scalar(number.to_bytes(32, "big")).public.point


IDENTITY = VehicleIdentity(
    group_id=b"G" * 16,
    readers=(
        ReaderIdentity(position=Position.CONSOLE_PAD, sub_id=PAD, public_key=point(1001)),
        ReaderIdentity(position=Position.DOOR_HANDLE, sub_id=HANDLE, public_key=point(1002)),
    ),
)


def phone(number=1, name="phone", role=Role.OWNER):
    return Credential(
        credential_id=f"{name}-{number}",
        name=name,
        public_key=point(number),
        role=role,
        permission=Permission.ENTRY_AND_START,
        created_s=1000.0 + number,
    )


def card(number, provenance=CardProvenance.PURCHASED):
    return replace(phone(number, "card", Role.CARD), provenance=provenance)


def content(store):
    """Everything the store tells."""
    return (
        store.identity(),
        store.credentials(),
        store.cards(),
        store.events(),
        store.fast_candidates(HANDLE, limit=99),
        store.fast_candidates(PAD, limit=99),
    )


def fill(store):
    """A life: owner, friend, three cards of which one was replaced, keys, events."""
    with store.transaction() as txn:
        txn.add(phone(1))
        txn.add(phone(2, "friend", Role.ASSOCIATE))
        txn.add(card(11, CardProvenance.INITIAL))
        txn.add(card(12))
        for name in ("phone-1", "friend-2", "card-11"):
            txn.put_kpersistent(name, HANDLE, name.encode() * 4)
        txn.put_kpersistent("phone-1", PAD, b"pad" * 20)
    with store.transaction() as txn:
        txn.add(card(13), replaces="card-11")
        txn.set_state("friend-2", CredentialState.SUSPENDED)
        for number in range(40):
            txn.log(
                t_s=number * 1.5,
                kind="touch",
                position=Position.DOOR_HANDLE,
                credential_id="phone-1",
                code=Code.TOO_SOON if number % 2 else None,
                text=f"tap {number}",
            )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vehicle.db"


@pytest.fixture
def store(path):
    with CredentialStore.create(path, IDENTITY) as opened:
        yield opened


@pytest.fixture
def full(path):
    """The bytes of a filled and closed store, and what it told."""
    with CredentialStore.create(path, IDENTITY) as opened:
        fill(opened)
        told = content(opened)
    return path.read_bytes(), told


def write(path, data):
    path.write_bytes(data)
    path.chmod(0o600)


def opened_content(path):
    """What the file tells, or the error that refuses it."""
    try:
        with CredentialStore.open(path) as opened:
            return content(opened)
    except StoreError as exc:
        return exc


def refuses_or_tells(path, told):
    """True when the file refuses to open; it may open with identical content only."""
    before = path.read_bytes()
    outcome = opened_content(path)
    if isinstance(outcome, StoreError):
        assert outcome.hint
        assert path.read_bytes() == before, "a refused file is left as it is"
        return True
    assert outcome == told
    return False


# Damage.


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_is_refused_or_changes_nothing(path, full, seed):
    data, told = full
    chance = random.Random(seed)
    refused = 0
    for _ in range(100):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        write(path, flipped)
        refused += refuses_or_tells(path, told)
    assert refused > 5


def test_a_flipped_byte_in_the_text_of_any_row_is_refused(path, full):
    data, told = full
    for text in (b"tap 17", b"phone-1", b"GGGGGGGGGGGGGGGG", point(1)[33:], b"padpad"):
        for at in (data.find(text), data.rfind(text)):
            assert at > 0
            flipped = bytearray(data)
            flipped[at + len(text) - 1] ^= 1
            write(path, flipped)
            assert refuses_or_tells(path, told)


def test_a_flipped_byte_anywhere_in_the_header_is_refused_or_changes_nothing(path, full):
    data, told = full
    for at in range(100):
        flipped = bytearray(data)
        flipped[at] ^= 0xFF
        write(path, flipped)
        refuses_or_tells(path, told)


def test_a_truncated_file_is_refused_at_every_length(path, full):
    data, told = full
    lengths = {0, 1, 15, 16, 99, 100, 511, 512, len(data) - 1}
    lengths |= set(range(0, len(data), 1024))
    for length in sorted(lengths):
        write(path, data[:length])
        refused = refuses_or_tells(path, told)
        assert refused or not any(data[length:]), length  # the empty end of a page says nothing


def test_a_page_of_zeros_is_refused(path, full):
    data, told = full
    for at in range(0, len(data), 4096):
        write(path, data[:at] + bytes(4096) + data[at + 4096 :])
        assert refuses_or_tells(path, told), at


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credential SET state = 'ACTIVE' WHERE id = 'friend-2'",
        "UPDATE credential SET permission = 'ENTRY' WHERE id = 'phone-1'",
        "DELETE FROM card_slot",
        "DELETE FROM vehicle",
        "DROP INDEX one_initial_card",
        "DROP TRIGGER event_no_delete",
        "CREATE TABLE extra (x)",
        "PRAGMA user_version = 0",
        "PRAGMA application_id = 7",
    ],
)
def test_a_file_changed_by_another_program_is_refused(path, full, statement):
    _, told = full
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
    assert refuses_or_tells(path, told)


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 8192, b"SQLite format 3\0" + b"x" * 4080])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path, data):
    write(path, data)
    with pytest.raises(StoreError):
        CredentialStore.open(path)
    assert path.read_bytes() == data


def test_a_database_of_another_program_is_refused(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE credential (id)")
    path.chmod(0o600)
    with pytest.raises(StoreError, match="another program"):
        CredentialStore.open(path)


def test_a_missing_file_is_refused_and_not_created(path):
    with pytest.raises(StoreError, match="no store") as caught:
        CredentialStore.open(path)
    assert "create" in caught.value.hint
    assert not path.exists()


def test_a_file_that_others_may_read_is_refused(path, full):
    path.chmod(0o644)
    with pytest.raises(StoreError) as caught:
        CredentialStore.open(path)
    assert "chmod 600" in caught.value.hint


# Creation and versions.


def test_a_new_store_is_private_and_durable(path, store):
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert store.settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "user_version": len(MIGRATIONS),
    }


def test_creation_leaves_one_file_and_tells_the_identity(path):
    with CredentialStore.create(path, IDENTITY) as store:
        assert store.identity() == IDENTITY
        assert store.identity().reader(Position.DOOR_HANDLE).sub_id == HANDLE
        assert store.credentials() == ()
    assert list(path.parent.iterdir()) == [path]


def test_creation_never_takes_the_place_of_a_file(path, full):
    data, _ = full
    with pytest.raises(StoreError, match="exists"):
        CredentialStore.create(path, IDENTITY)
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_creation_refuses_the_log_of_a_lost_store(path):
    path.with_name("vehicle.db-wal").write_bytes(b"old")
    with pytest.raises(StoreError, match="log of another"):
        CredentialStore.create(path, IDENTITY)
    assert not path.exists()


def test_creation_in_a_missing_directory_is_refused(path):
    with pytest.raises(StoreError, match="cannot create"):
        CredentialStore.create(path.parent / "none" / "vehicle.db", IDENTITY)


@pytest.mark.parametrize(
    "identity",
    [
        replace(IDENTITY, group_id=b"short"),
        replace(IDENTITY, readers=(IDENTITY.readers[0], replace(IDENTITY.readers[1], sub_id=PAD))),
        replace(IDENTITY, readers=(IDENTITY.readers[0], IDENTITY.readers[0])),
        replace(IDENTITY, readers=(replace(IDENTITY.readers[0], public_key=b"\4" * 65),)),
    ],
)
def test_a_malformed_identity_creates_nothing(path, identity):
    with pytest.raises(LocalFault):
        CredentialStore.create(path, identity)
    assert not path.exists()


def test_a_store_of_a_newer_program_is_refused(path, full):
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match="schema version") as caught:
        CredentialStore.open(path)
    assert "newer program" in caught.value.hint


NEXT = (*MIGRATIONS, ("CREATE TABLE note (text TEXT) STRICT", "INSERT INTO note VALUES ('new')"))


def test_an_older_store_is_migrated_once_and_keeps_its_content(path, full):
    _, told = full
    for _ in range(2):
        with CredentialStore.open(path, migrations=NEXT) as store:
            assert content(store) == told
            assert store.settings["user_version"] == len(NEXT)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM note").fetchone() == (1,)


def test_a_migration_that_fails_changes_nothing(path, full):
    _, told = full
    broken = (*MIGRATIONS, ("CREATE TABLE note (text TEXT)", "INSERT INTO nowhere VALUES (1)"))
    with pytest.raises(StoreError, match="could not be brought"):
        CredentialStore.open(path, migrations=broken)
    with CredentialStore.open(path) as store:
        assert content(store) == told


# Transactions.


class Cut(Exception):
    """The power goes away here."""


STEPS = [
    lambda txn: txn.add(card(14), replaces="card-12"),
    lambda txn: txn.set_state("phone-1", CredentialState.REVOKED),
    lambda txn: txn.put_kpersistent("friend-2", PAD, b"key" * 9),
    lambda txn: txn.mark_used("friend-2", HANDLE),
    lambda txn: txn.forget_kpersistent("friend-2"),
    lambda txn: txn.log(t_s=9.0, kind="pairing", text="card replaced"),
]


@pytest.mark.parametrize("count", range(len(STEPS) + 1))
def test_an_exception_after_any_write_undoes_them_all(path, store, count):
    fill(store)
    told = content(store)

    def cut_short():
        with store.transaction() as txn:
            for step in STEPS[:count]:
                step(txn)
            raise Cut

    with pytest.raises(Cut):
        cut_short()
    assert content(store) == told
    with CredentialStore.open(path) as other:
        assert content(other) == told


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_credential_store import STEPS, CredentialStore
store = CredentialStore.open({path!r})
with store.transaction() as txn:
    for step in STEPS:
        step(txn)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run(script, *, path, **more):
    tests = str(__file__).rsplit("/", 1)[0]
    return subprocess.Popen(
        [sys.executable, "-c", script.format(tests=tests, path=str(path), **more)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_process_killed_inside_a_transaction_changes_nothing(path, full):
    _, told = full
    with run(KILLED, path=path) as process:
        process.communicate(timeout=30)
    assert process.returncode == -9
    with CredentialStore.open(path) as store:
        assert content(store) == told


def test_what_was_committed_survives_a_process_that_never_closes(path, full):
    script = KILLED.replace("    os.kill", "os.kill")
    with run(script, path=path) as process:
        process.communicate(timeout=30)
    assert process.returncode == -9
    with CredentialStore.open(path) as store:
        assert store.credential("card-12").replaced_by == "card-14"
        assert store.credential("phone-1").state is CredentialState.REVOKED
        assert store.events()[-1].text == "card replaced"


RACER = """
import sys
sys.path.insert(0, {tests!r})
from test_credential_store import CredentialStore, PolicyRefusal, card
store = CredentialStore.open({path!r})
new = card({number})
print("ready", flush=True)
sys.stdin.readline()
try:
    with store.transaction() as txn:
        txn.add(new)
    print("won")
except PolicyRefusal as exc:
    print(exc.code)
store.close()
"""


@pytest.mark.parametrize("racers", [2, 4])
def test_of_processes_racing_for_the_last_card_place_exactly_one_wins(path, racers):
    with CredentialStore.create(path, IDENTITY) as store, store.transaction() as txn:
        txn.add(card(11))
    processes = [run(RACER, path=path, number=20 + n) for n in range(racers)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = sorted(process.communicate(timeout=30)[0].strip() for process in processes)
    assert said == ["CARD_LIMIT"] * (racers - 1) + ["won"]
    with CredentialStore.open(path) as store:
        assert len(store.cards()) == MAX_CARDS


def test_a_power_cycle_keeps_everything(path, full):
    _, told = full
    for _ in range(2):
        with CredentialStore.open(path) as store:
            assert content(store) == told


def test_a_refusal_caught_inside_the_block_leaves_no_half_write(store):
    fill(store)
    told = content(store)
    with store.transaction() as txn, pytest.raises(LocalFault):
        txn.add(replace(card(15), public_key=point(1)), replaces="card-12")
    assert content(store) == told


def test_a_transaction_inside_another_is_refused(store):
    with store.transaction(), pytest.raises(LocalFault, match="open already"), store.transaction():
        pass


def test_a_transaction_kept_beyond_its_block_writes_nothing(store):
    with store.transaction() as txn:
        pass
    with pytest.raises(LocalFault, match="ended"):
        txn.log(t_s=1.0, kind="late")
    assert store.events() == ()


def test_a_closed_store_says_so_and_closes_again(store):
    store.close()
    store.close()
    with pytest.raises(LocalFault, match="closed"):
        store.credentials()


def test_another_thread_is_refused(store):
    caught = []

    def read():
        try:
            store.credentials()
        except StoreError as exc:
            caught.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert len(caught) == 1


# Credentials and cards.


def test_a_credential_is_found_by_id_and_by_x_with_all_it_was_given(store):
    with store.transaction() as txn:
        txn.add(phone(1))
        txn.add(card(11, CardProvenance.INITIAL))
    assert store.credential("phone-1") == store.credential_by_x(point(1)[1:33]) == phone(1)
    assert store.credential("card-11") == card(11, CardProvenance.INITIAL)
    assert store.credential("nobody") is None
    assert store.credential_by_x(bytes(32)) is None


def test_the_grant_of_a_credential_carries_its_rights_of_now(store):
    fill(store)
    grant = store.credential("friend-2").grant()
    assert (grant.credential_id, grant.role) == ("friend-2", Role.ASSOCIATE)
    assert grant.state is CredentialState.SUSPENDED


def test_a_key_is_enrolled_once_even_with_its_y_flipped(store):
    with store.transaction() as txn:
        txn.add(phone(1))
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    flipped = point(1)[:33] + (prime - int.from_bytes(point(1)[33:], "big")).to_bytes(32, "big")
    twin = replace(phone(2), public_key=flipped)
    with pytest.raises(LocalFault, match="cannot be enrolled"), store.transaction() as txn:
        txn.add(twin)


@pytest.mark.parametrize(
    "credential",
    [
        replace(phone(1), public_key=b"\4" + b"\1" * 64),
        replace(phone(1), provenance=CardProvenance.PURCHASED),
        replace(card(11), provenance=None),
        replace(phone(1), state=CredentialState.REVOKED),
        replace(card(11), replaced_by="card-12"),
        replace(phone(1), created_s=float("nan")),
    ],
)
def test_a_malformed_credential_is_not_enrolled(store, credential):
    with pytest.raises(LocalFault), store.transaction() as txn:
        txn.add(credential)
    assert store.credentials() == ()


def test_a_card_beyond_the_limit_is_refused(store):
    with store.transaction() as txn:
        for number in range(MAX_CARDS):
            txn.add(card(11 + number))
    with pytest.raises(PolicyRefusal) as caught, store.transaction() as txn:
        txn.add(card(30))
    assert caught.value.code is Code.CARD_LIMIT
    assert len(store.cards()) == MAX_CARDS


def test_the_file_itself_has_no_place_for_a_card_beyond_the_limit(path, full):
    with closing(sqlite3.connect(path)) as db:
        taken = {slot for (slot,) in db.execute("SELECT slot FROM card_slot")}
        assert taken == set(range(1, MAX_CARDS + 1))
        for slot in (0, MAX_CARDS + 1):
            with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
                db.execute("INSERT INTO card_slot VALUES (?, 'phone-1', x'00')", (slot,))


def test_a_replacement_is_one_step_and_the_old_card_is_out_of_use(store):
    fill(store)
    with store.transaction() as txn:
        txn.add(card(14), replaces="card-12")
    old = store.credential("card-12")
    assert (old.state, old.replaced_by) == (CredentialState.REPLACED, "card-14")
    assert store.credential("card-14").state is CredentialState.ACTIVE


def test_a_replaced_card_loses_its_persistent_keys(store):
    fill(store)
    names = [c.credential.credential_id for c in store.fast_candidates(HANDLE)]
    assert names == ["friend-2", "phone-1"]


@pytest.mark.parametrize(
    ("replaces", "code"),
    [
        ("nobody", Code.KEY_UNKNOWN),
        ("phone-1", Code.KEY_UNKNOWN),
        ("card-11", Code.CARD_BLOCKED),
    ],
)
def test_only_a_card_in_use_can_be_replaced(store, replaces, code):
    fill(store)
    told = content(store)
    with pytest.raises(PolicyRefusal) as caught, store.transaction() as txn:
        txn.add(card(14), replaces=replaces)
    assert caught.value.code is code
    assert content(store) == told


def test_a_phone_replaces_no_card(store):
    fill(store)
    with pytest.raises(LocalFault), store.transaction() as txn:
        txn.add(phone(5), replaces="card-12")


def test_there_is_one_initial_card_ever(store):
    assert INITIAL_CARDS == 1
    fill(store)
    with store.transaction() as txn:
        txn.set_state("card-12", CredentialState.REVOKED)
    with pytest.raises(PolicyRefusal) as caught, store.transaction() as txn:
        txn.add(card(14, CardProvenance.INITIAL))
    assert caught.value.code is Code.CARD_LIMIT


def test_a_suspended_card_keeps_its_place_and_a_revoked_one_frees_it(store):
    fill(store)
    with store.transaction() as txn:
        txn.set_state("card-12", CredentialState.SUSPENDED)
    with pytest.raises(PolicyRefusal), store.transaction() as txn:
        txn.add(card(14))
    with store.transaction() as txn:
        txn.set_state("card-12", CredentialState.REVOKED)
        txn.add(card(14))


@pytest.mark.parametrize(
    ("credential_id", "code"), [("card-12", Code.KEY_REVOKED), ("card-11", Code.CARD_BLOCKED)]
)
def test_what_is_out_of_use_never_comes_back(store, credential_id, code):
    fill(store)
    with store.transaction() as txn:
        txn.set_state("card-12", CredentialState.REVOKED)
    with pytest.raises(PolicyRefusal) as caught, store.transaction() as txn:
        txn.set_state(credential_id, CredentialState.ACTIVE)
    assert caught.value.code is code
    with pytest.raises(PolicyRefusal) as caught, store.transaction() as txn:
        txn.put_kpersistent(credential_id, HANDLE, b"key")
    assert caught.value.code is code


def test_a_suspended_credential_comes_back(store):
    fill(store)
    with store.transaction() as txn:
        txn.set_state("friend-2", CredentialState.ACTIVE)
    assert store.credential("friend-2").state is CredentialState.ACTIVE


def test_an_unknown_credential_has_no_state_to_set(store):
    with pytest.raises(LocalFault, match="nobody"), store.transaction() as txn:
        txn.set_state("nobody", CredentialState.REVOKED)


# Persistent keys and events.


def test_the_key_used_last_is_tried_first_and_no_more_than_the_limit(store):
    names = [f"phone-{number}" for number in range(1, 21)]
    with store.transaction() as txn:
        for number, name in enumerate(names, 1):
            txn.add(phone(number))
            txn.put_kpersistent(name, HANDLE, name.encode())
        txn.mark_used("phone-3", HANDLE)
    found = store.fast_candidates(HANDLE)
    expected = ["phone-3", *[name for name in reversed(names) if name != "phone-3"]]
    assert [c.credential.credential_id for c in found] == expected[:MAX_FAST_CANDIDATES]
    assert found[0].sealed == b"phone-3"
    assert len(store.fast_candidates(HANDLE, limit=3)) == 3
    assert store.fast_candidates(HANDLE, limit=-1) == ()
    assert store.fast_candidates(PAD) == ()


def test_the_order_of_use_survives_a_power_cycle(path, store):
    fill(store)
    with store.transaction() as txn:
        txn.mark_used("phone-1", HANDLE)
    store.close()
    with CredentialStore.open(path) as again:
        assert again.fast_candidates(HANDLE)[0].credential.credential_id == "phone-1"


def test_a_newer_persistent_key_takes_the_place_of_the_older(store):
    fill(store)
    with store.transaction() as txn:
        txn.put_kpersistent("phone-1", PAD, b"newer")
    assert [c.sealed for c in store.fast_candidates(PAD)] == [b"newer"]


def test_a_forgotten_persistent_key_is_tried_at_no_reader(store):
    fill(store)
    with store.transaction() as txn:
        txn.forget_kpersistent("phone-1")
    found = (*store.fast_candidates(HANDLE), *store.fast_candidates(PAD))
    assert "phone-1" not in [c.credential.credential_id for c in found]


@pytest.mark.parametrize(
    ("credential_id", "sub_id", "sealed"),
    [("nobody", HANDLE, b"key"), ("phone-1", b"X" * 16, b"key"), ("phone-1", HANDLE, b"")],
)
def test_a_persistent_key_of_nobody_or_nowhere_or_nothing_is_refused(
    store, credential_id, sub_id, sealed
):
    fill(store)
    with pytest.raises(LocalFault), store.transaction() as txn:
        txn.put_kpersistent(credential_id, sub_id, sealed)


def test_a_key_that_was_never_kept_cannot_be_marked_used(store):
    fill(store)
    with pytest.raises(LocalFault, match="no persistent key"), store.transaction() as txn:
        txn.mark_used("friend-2", PAD)


def test_events_are_numbered_from_one_and_read_on_from_any_number(store):
    with store.transaction() as txn:
        assert txn.log(t_s=1.0, kind="boot") == 1
        assert txn.log(t_s=2.0, kind="touch", code=Code.DRIVING, credential_id="ghost") == 2
    first, second = store.events()
    assert (first.kind, first.position, first.code) == ("boot", None, None)
    assert (second.credential_id, second.code) == ("ghost", Code.DRIVING)
    assert store.events(after_seq=1) == (second,)


@pytest.mark.parametrize("statement", ["UPDATE event SET text = ''", "DELETE FROM event"])
def test_the_file_itself_lets_no_event_be_changed_or_removed(path, full, statement):
    with (
        closing(sqlite3.connect(path)) as db,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        db.execute(statement)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT id FROM credential WHERE x = x'00'", "sqlite_autoindex_credential_2"),
        (
            "SELECT sealed FROM kpersistent WHERE sub_id = x'00' ORDER BY used_seq DESC LIMIT 9",
            "kpersistent_recent",
        ),
    ],
)
def test_the_lookups_of_a_transaction_use_an_index_and_sort_nothing(path, full, query, index):
    with closing(sqlite3.connect(path)) as db:
        plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}"))
    assert index in plan
    assert "TEMP B-TREE" not in plan


# Schema 2: the owner epoch, pairing codes, the first use.


@pytest.fixture
def first_schema(path):
    """A store as the first release made it: an owner, a card, a persistent key, an event."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")
        insert(db, "vehicle", (1, IDENTITY.group_id))
        for reader in IDENTITY.readers:
            insert(db, "reader", (reader.position.value, reader.sub_id, reader.public_key))
        for credential in (phone(1), card(11)):
            insert(db, "credential", credential_row(credential))
        insert(db, "card_slot", (1, "card-11"))
        insert(db, "kpersistent", (HANDLE, "phone-1", b"sealed", 1))
        insert(db, "event", (1, 5.0, "UNLOCK", "DOOR_HANDLE", "phone-1", None, "tap"))
    path.chmod(0o600)
    return path


def waiting(number=1, name="phone"):
    return replace(phone(number, name), first_use=True)


def issued(store, at_s=1000.0):
    with store.transaction() as txn:
        return txn.issue_code(issued_s=at_s, salt=b"s" * 16, sealed=b"sealed code")


def tried(store, number):
    with store.transaction() as txn:
        return txn.count_try(number)


def test_a_store_of_the_first_schema_is_migrated_with_all_it_holds(first_schema):
    for _ in range(2):
        with CredentialStore.open(first_schema) as opened:
            assert opened.settings["user_version"] == len(MIGRATIONS)
            assert opened.credentials() == (phone(1), card(11))
            assert [each.sealed for each in opened.fast_candidates(HANDLE)] == [b"sealed"]
            assert [each.text for each in opened.events()] == ["tap"]
            assert opened.ownership() == Ownership(epoch=1, resolving_key=None)
            assert opened.pairing_codes() == ()


def test_a_damaged_store_of_the_first_schema_is_refused_and_not_migrated(first_schema):
    with closing(sqlite3.connect(first_schema, isolation_level=None)) as db:
        db.execute("UPDATE credential SET permission = 'ENTRY' WHERE id = 'phone-1'")
    before = first_schema.read_bytes()
    assert isinstance(opened_content(first_schema), StoreError)
    assert first_schema.read_bytes() == before


def test_a_migrated_store_has_the_schema_of_a_new_one(first_schema, tmp_path):
    CredentialStore.open(first_schema).close()
    CredentialStore.create(tmp_path / "new.db", IDENTITY).close()
    schemas = []
    for file in (first_schema, tmp_path / "new.db"):
        with closing(sqlite3.connect(file)) as db:
            schemas.append(
                db.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
            )
    assert schemas[0] == schemas[1]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ownership SET epoch = 9",
        "DELETE FROM ownership",
        "UPDATE pairing_code SET tries = 0",
        "UPDATE first_use SET credential_id = 'friend-2'",
    ],
)
def test_a_changed_owner_code_or_first_use_is_refused(path, store, statement):
    with store.transaction() as txn:
        txn.add(waiting())
        txn.add(phone(2, "friend", Role.ASSOCIATE))
    tried(store, issued(store))
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(statement)
    assert isinstance(opened_content(path), StoreError)


def test_a_credential_waits_for_its_first_use_until_a_standard_transaction(path, store):
    with store.transaction() as txn:
        txn.add(waiting())
    store.close()
    with CredentialStore.open(path) as again:
        assert again.credential("phone-1").first_use
        with again.transaction() as txn:
            txn.put_kpersistent("phone-1", HANDLE, b"sealed")
        assert not again.credential("phone-1").first_use


def test_a_revoked_credential_waits_for_nothing(store):
    with store.transaction() as txn:
        txn.add(waiting())
        txn.set_state("phone-1", CredentialState.REVOKED)
    assert not store.credential("phone-1").first_use


def test_tries_are_counted_to_three_and_survive_a_power_cycle(path, store):
    number = issued(store)
    assert [tried(store, number) for _ in range(3)] == [1, 2, 3]
    store.close()
    with CredentialStore.open(path) as again:
        assert again.pairing_codes()[0].tries == 3
        with pytest.raises(PolicyRefusal) as caught:
            tried(again, number)
        assert caught.value.code is Code.CODE_LOCKED_OUT
        assert again.pairing_codes()[0].tries == 3


def test_the_file_itself_counts_no_fourth_try(path, store):
    issued(store)
    store.close()
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute("UPDATE pairing_code SET tries = 4")


def test_a_new_code_closes_the_old_one_and_erases_what_verifies_it(store):
    first, second = issued(store), issued(store, 1001.0)
    old, new = store.pairing_codes()
    assert (old.number, old.closed, old.sealed) == (first, True, None)
    assert (new.number, new.closed) == (second, False)
    with pytest.raises(PolicyRefusal) as caught:
        tried(store, first)
    assert caught.value.code is Code.NOT_AUTHORISED


def test_the_file_itself_has_no_place_for_two_live_codes(path, store):
    issued(store)
    store.close()
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(
            "INSERT INTO pairing_code VALUES (9, 1.0, ?, x'00', 0, 'OPEN', NULL, x'00')",
            (bytes(16),),
        )


def test_codes_of_the_last_hour_are_remembered_and_older_ones_are_not(store):
    for at_s in (0.0, 100.0, 3700.1):
        issued(store, at_s)
    assert [each.issued_s for each in store.pairing_codes()] == [100.0, 3700.1]


def test_a_code_remembers_whom_it_enrolled_until_it_is_closed(store):
    number = issued(store)
    with store.transaction() as txn:
        txn.add(waiting())
        txn.pair_code(number, "phone-1")
    assert store.pairing_codes()[0].credential_id == "phone-1"
    with store.transaction() as txn:
        txn.close_code(number)
        txn.close_code(number)
    assert store.pairing_codes()[0].closed
    with pytest.raises(PolicyRefusal), store.transaction() as txn:
        txn.pair_code(number, "phone-1")


def test_a_code_enrols_nobody_who_is_unknown(store):
    number = issued(store)
    with pytest.raises(LocalFault), store.transaction() as txn:
        txn.pair_code(number, "nobody")


def test_a_factory_reset_leaves_the_identity_the_log_and_a_new_epoch(path, full):
    with CredentialStore.open(path) as opened:
        identity, events = opened.identity(), opened.events()
        number = issued(opened)
        with opened.transaction() as txn:
            txn.pair_code(number, "phone-1")
            assert txn.factory_reset(resolving_key=b"sealed key") == 2
    with CredentialStore.open(path) as again:
        assert content(again) == (identity, (), (), events, (), ())
        assert again.ownership() == Ownership(epoch=2, resolving_key=b"sealed key")
        assert again.pairing_codes() == ()
        with again.transaction() as txn:
            txn.add(phone(1))
            txn.add(card(11, CardProvenance.INITIAL))


def test_a_resolving_key_is_kept_within_its_epoch(store):
    with store.transaction() as txn:
        txn.set_resolving_key(b"sealed key")
    assert store.ownership() == Ownership(epoch=1, resolving_key=b"sealed key")
