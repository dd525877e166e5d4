"""The agent's durable memory: what was kept stays, secrets are sealed, damage does not open."""

from __future__ import annotations

import random
import sqlite3
import stat
from contextlib import closing

import pytest

from dkey.agent.store import AgentStore, KeyState
from dkey.agent.store_schema import LAYOUT
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, StoreError, VaultError
from dkey.lifecycle.durable import DurableFile
from dkey.lifecycle.features import Feature
from dkey.lifecycle.policy import LOG_RETENTION_MONTHS
from dkey.pairing.owner import PairedVehicle
from dkey.testing import FakeClock, SeededEntropy

RESOLVING, KPERSISTENT = b"resolving key 16", b"a Kpersistent of thirty-two bytes"[:32]
SUB = b"S" * 16


def paired(group: bytes = b"G" * 16, epoch: int = 1) -> PairedVehicle:
    return PairedVehicle(
        group_id=group,
        public_key=PrivateKey.from_scalar(bytes(31) + b"\x07").public,
        resolving_key=Secret(RESOLVING),
        owner_epoch=epoch,
        features=frozenset({Feature.REMOTE, Feature.TOUCH_LOCK}),
        key_name="owner-1",
    )


def opened(folder, *, create=False, passphrase=None, clock=None) -> AgentStore:
    return AgentStore.open(
        folder,
        entropy=SeededEntropy(random.random()),
        create=create,
        passphrase=passphrase,
        clock=clock or FakeClock(1000.0),
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def store(folder):
    with opened(folder, create=True) as made:
        yield made


def content(store):
    return (
        store.vehicles(),
        store.events(limit=1000),
        [store.credential(each.group_id).kpersistent for each in store.vehicles()],
    )


def fill(store):
    store.add(paired(), store.new_key())
    store.save_kpersistent(b"G" * 16, SUB, Secret(KPERSISTENT))
    store.set_state(b"G" * 16, KeyState.SYNCED)
    store.record("command", group_id=b"G" * 16, text="UNLOCK")


def test_what_was_kept_is_there_after_a_restart(folder):
    with opened(folder, create=True) as store:
        fill(store)
        told = content(store)
    with opened(folder) as again:
        assert content(again) == told
        (known,) = again.vehicles()
    assert (known.vehicle, known.state) == (paired(), KeyState.SYNCED)


def test_a_credential_works_with_its_vehicle_and_its_key(store):
    key = store.new_key()
    store.add(paired(), key)
    store.save_kpersistent(b"G" * 16, SUB, Secret(KPERSISTENT))
    credential = store.credential(b"G" * 16)
    assert credential.readers[b"G" * 16].public_key == paired().public_key
    assert credential.kpersistent == {(b"G" * 16, SUB): Secret(KPERSISTENT)}
    assert credential.vault.public(credential.key) == store.vault.public(key)


def test_durability_rests_on_wal_and_full_synchronous(store):
    assert store.settings["journal_mode"] == "wal"
    assert store.settings["synchronous"] == 2
    assert store.settings["foreign_keys"] == 1


def test_every_file_is_private(folder, store):
    fill(store)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}
    assert {"agent.db", "vault.json", "vault.key"} <= {*modes}
    assert {*modes.values()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_secret_stands_in_any_file_in_the_clear(folder, store):
    fill(store)
    store.close()
    everything = b"".join(each.read_bytes() for each in folder.iterdir())
    assert RESOLVING not in everything
    assert KPERSISTENT not in everything
    assert b"owner-1" in everything  # the search itself finds what is not sealed


def test_without_a_store_nothing_is_made_unless_asked(folder):
    with pytest.raises(StoreError) as refused:
        opened(folder)
    assert "dkey agent pair" in (refused.value.hint or "")
    assert not folder.exists()


def test_a_lost_database_is_not_replaced_by_an_empty_one(folder):
    with opened(folder, create=True) as store:
        fill(store)
    for each in folder.glob("agent.db*"):
        each.unlink()
    with pytest.raises(StoreError, match="gone"):
        opened(folder, create=True)


def test_an_interrupted_first_start_is_finished_by_the_next(folder):
    opened(folder, create=True).close()
    (folder / "agent.db").unlink()
    with opened(folder, create=True) as store:
        assert store.vehicles() == ()


@pytest.mark.parametrize("lost", ["vault.json", "vault.key"])
def test_a_lost_vault_or_key_file_is_said(folder, lost):
    with opened(folder, create=True) as store:
        fill(store)
    (folder / lost).unlink()
    with pytest.raises((StoreError, VaultError)) as refused:
        opened(folder, create=True)
    assert refused.value.hint
    assert not (folder / lost).exists()


def test_the_vault_of_another_store_is_refused(folder, tmp_path):
    with opened(folder, create=True) as store:
        fill(store)
    other = tmp_path / "other"
    opened(other, create=True).close()
    for name in ("vault.json", "vault.key"):
        (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(StoreError, match="do not belong together"):
        opened(folder)


def test_a_passphrase_takes_the_place_of_the_key_file(folder):
    with opened(folder, create=True, passphrase=Secret(b"correct horse")) as store:
        fill(store)
    assert not (folder / "vault.key").exists()
    with pytest.raises(VaultError):
        opened(folder, passphrase=Secret(b"wrong"))
    with opened(folder, passphrase=Secret(b"correct horse")) as again:
        assert again.vehicles()[0].state is KeyState.SYNCED


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_byte_is_refused_or_changes_nothing(folder, seed):
    with opened(folder, create=True) as store:
        fill(store)
        told = content(store)
    path = folder / "agent.db"
    data, chance, refused = path.read_bytes(), random.Random(seed), 0
    for _ in range(60):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        path.write_bytes(flipped)
        for log in folder.glob("agent.db-*"):
            log.unlink()
        try:
            with opened(folder) as again:
                assert content(again) == told
        except StoreError:
            refused += 1
    assert refused


def test_a_row_that_was_moved_does_not_open(folder):
    with opened(folder, create=True) as store:
        fill(store)
        store.save_kpersistent(b"G" * 16, b"T" * 16, Secret(bytes(32)))
    layout_error = (StoreError, VaultError)
    with closing(sqlite3.connect(folder / "agent.db")) as db:
        (sealed,) = db.execute("SELECT sealed FROM kpersistent WHERE sub_id = ?", (SUB,)).fetchone()
        db.execute("UPDATE kpersistent SET sealed = ?", (sealed,))
        db.commit()
    with pytest.raises(layout_error):
        opened(folder)


def test_a_store_of_a_newer_program_is_refused(folder):
    opened(folder, create=True).close()
    with closing(sqlite3.connect(folder / "agent.db")) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreError, match="version 9"):
        opened(folder)


def test_a_missing_line_of_the_history_is_noticed(folder):
    with opened(folder, create=True) as store:
        for number in range(5):
            store.record("command", text=str(number))
    with closing(sqlite3.connect(folder / "agent.db")) as db:
        db.execute("DELETE FROM event WHERE seq = 3")
        db.commit()
    with pytest.raises(StoreError, match="missing"):
        opened(folder)


def test_the_history_cannot_be_rewritten(folder):
    with opened(folder, create=True) as store:
        store.record("command")
    with (
        closing(sqlite3.connect(folder / "agent.db")) as db,
        pytest.raises(sqlite3.IntegrityError, match="not changed"),
    ):
        db.execute("UPDATE event SET text = 'nothing'")


def test_old_lines_leave_the_history_and_the_store_still_opens(folder):
    clock = FakeClock(0.0)
    with opened(folder, create=True, clock=clock) as store:
        store.record("command", text="old")
        clock.advance(LOG_RETENTION_MONTHS * 31 * 86400 + 1)
        store.record("command", text="new")
        store.record("command", text="newer")
    with opened(folder, clock=clock) as again:
        assert [each.text for each in again.events()] == ["new", "newer"]
        assert [each.seq for each in again.events()] == [2, 3]


def test_the_history_gives_the_last_lines_oldest_first(store):
    for number in range(6):
        store.record("command", text=str(number))
    assert [each.text for each in store.events(limit=2)] == ["4", "5"]
    assert [each.text for each in store.events(after_seq=4)] == ["4", "5"]


def test_pairing_again_takes_the_place_of_the_old_key(store):
    fill(store)
    (old,) = store.vehicles()
    new = store.new_key()
    store.add(paired(epoch=2), new)
    (known,) = store.vehicles()
    assert (known.key, known.state, known.vehicle.owner_epoch) == (new, KeyState.REGISTERED, 2)
    assert store.credential(b"G" * 16).kpersistent == {}
    assert old.key not in store.vault.names()


def test_a_forgotten_key_can_resume_nothing(store):
    fill(store)
    store.set_state(b"G" * 16, KeyState.FORGOTTEN)
    assert store.credential(b"G" * 16).kpersistent == {}


def test_a_state_change_keeps_what_resumes(store):
    fill(store)
    store.set_state(b"G" * 16, KeyState.REGISTERED)
    assert len(store.credential(b"G" * 16).kpersistent) == 1


def test_to_forget_a_vehicle_deletes_its_private_key(store):
    fill(store)
    (known,) = store.vehicles()
    store.forget(known.group_id)
    assert store.vehicles() == ()
    assert known.key not in store.vault.names()


def test_a_key_in_use_is_not_dropped(store):
    key = store.new_key()
    store.add(paired(), key)
    with pytest.raises(LocalFault):
        store.drop_key(key)
    assert key in store.vault.names()


def test_the_key_that_seals_is_not_dropped(store):
    with pytest.raises(LocalFault):
        store.drop_key("seal")


def test_a_kpersistent_of_an_unknown_vehicle_is_not_kept(store):
    with pytest.raises(StoreError):
        store.save_kpersistent(b"X" * 16, SUB, Secret(KPERSISTENT))


def test_nothing_is_kept_of_a_transaction_that_failed(folder):
    with opened(folder, create=True) as store:
        fill(store)
    file = DurableFile.open(folder / "agent.db", LAYOUT)

    def fail() -> None:
        with file.transaction():
            file.delete("event", "seq > ?", 0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.rows("SELECT count(*) FROM event") != [(0,)]
    file.close()


def test_two_processes_share_a_store(folder, store):
    fill(store)
    with opened(folder) as other:
        other.set_state(b"G" * 16, KeyState.FORGOTTEN)
    assert store.vehicles()[0].state is KeyState.FORGOTTEN


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    with pytest.raises(LocalFault):
        store.vehicles()
