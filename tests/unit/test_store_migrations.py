"""Stores that older programs left open in this one, with all that was in them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dkey.agent.store import AgentStore
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, StoreError
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.slots import PeerSeen, peer_last_seen, remember_peer, slots, take_slot
from dkey.testing import SeededEntropy
from firmware_mock.garage import create_vehicle, open_vehicle
from firmware_mock.store import CredentialStore
from tests.durability.side import tamper

STORES = Path(__file__).parent.parent / "fixtures" / "stores"


def content(path):
    """Return every row of every table."""
    with closing(sqlite3.connect(path)) as db:
        tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return {name: db.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}


@pytest.fixture(params=["vehicle_v2.db", "vehicle_v3.db"])
def vehicle(tmp_path, request):
    path = tmp_path / "vehicle.db"
    shutil.copy(STORES / request.param, path)
    path.chmod(0o600)
    return path


@pytest.fixture
def agent(tmp_path):
    folder = tmp_path / "agent"
    shutil.copytree(STORES / "agent_v1", folder)
    for file in folder.iterdir():
        file.chmod(0o600)
    folder.chmod(0o700)
    return folder


def opened_agent(folder):
    return AgentStore.open(folder, entropy=SeededEntropy(1))


def opened_vehicle(path):
    store = CredentialStore.open(path)
    store.open_ledger(Secret(bytes(32)), SeededEntropy(1))
    return store


def test_an_old_vehicle_keeps_all_it_had_and_gains_what_is_new_empty(vehicle):
    before = content(vehicle)
    opened_vehicle(vehicle).close()
    after = content(vehicle)
    assert before
    assert {name: after[name] for name in before} == before
    ledger = {"ledger", "ledger_entry", "ledger_snapshot", "share_slot", "peer_seen"}
    new = {"share", "standard_use", "feature_set", "authority", "trusted_time", "reported"}
    assert after.keys() - before.keys() == new | (ledger - before.keys())
    added = after.keys() - before.keys() - {"ledger"}  # which has its identity
    assert not any(after[name] for name in added)


def test_an_old_agent_keeps_all_it_had_and_gains_an_empty_ledger(agent):
    before = content(agent / "agent.db")
    opened_agent(agent).close()
    after = content(agent / "agent.db")
    assert before
    assert {name: after[name] for name in before} == before
    new = {"ledger": 1, "ledger_entry": 0, "ledger_snapshot": 0, "peer_seen": 0}
    assert {name: len(after[name]) for name in after.keys() - before.keys()} == new


def test_the_migrated_vehicle_keeps_a_ledger(vehicle):
    with opened_vehicle(vehicle) as store:
        ledger = store.ledger
        with store.file.transaction():
            ledger.append("share", b"a friend")
            take_slot(store.file, b"share 1")
    with opened_vehicle(vehicle) as store:
        assert [entry.body for entry in store.ledger.entries()] == [b"a friend"]
        assert slots(store.file) == {1: b"share 1"}


def test_the_migrated_agent_keeps_a_ledger(agent):
    seen = PeerSeen(epoch=1, number=2)
    with opened_agent(agent) as store:
        ledger = store.ledger
        with store.file.transaction():
            ledger.append("share", b"to a friend")
            remember_peer(store.file, b"G" * 16, seen)
    with opened_agent(agent) as store:
        assert [entry.body for entry in store.ledger.entries()] == [b"to a friend"]
        assert peer_last_seen(store.file, b"G" * 16) == seen
        assert len(store.vehicles()) == 1


def test_a_store_without_the_key_does_not_open_its_ledger(vehicle):
    with (
        CredentialStore.open(vehicle) as store,
        pytest.raises(LocalFault, match="without its ledger"),
    ):
        _ = store.ledger


def test_a_store_with_a_damaged_ledger_refuses_to_open_and_names_the_entry(vehicle, agent):
    for open_store, path, at in (
        (opened_vehicle, vehicle, vehicle),
        (opened_agent, agent / "agent.db", agent),
    ):
        with open_store(at) as store:
            ledger = store.ledger
            with store.file.transaction():
                ledger.append("share", b"one")
                ledger.append("share", b"two")
        tamper(path, "UPDATE ledger_entry SET sealed = x'00' WHERE seq = 2")
        with pytest.raises(StoreError, match="entry 2 of the ledger changed"):
            open_store(at)


def test_a_mock_vehicle_has_its_ledger_open_with_its_own_key(tmp_path):
    vehicle = create_vehicle(tmp_path / "car", entropy=SeededEntropy(1))
    owner = SeededEntropy("owner").ephemeral().public
    vehicle.enrol("owner", owner, Role.OWNER, Permission.ENTRY_AND_START)
    vehicle.close()
    again = open_vehicle(tmp_path / "car", entropy=SeededEntropy(2))
    assert [entry.kind for entry in again.store.ledger.entries()] == ["OWNER"]
    assert again.keys.book.admissions.owner_x == owner.x
    again.close()


def test_a_vehicle_with_another_key_file_does_not_open_its_ledger(vehicle):
    with opened_vehicle(vehicle) as store, store.file.transaction():
        store.ledger.append("share", b"a friend")
    named = "entry 1 of the ledger does not open"
    with CredentialStore.open(vehicle) as store, pytest.raises(StoreError, match=named):
        store.open_ledger(Secret(bytes(31) + b"1"), SeededEntropy(1))
