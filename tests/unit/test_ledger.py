"""The ledger: what was appended stays in order, and damage names its entry."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing

import pytest

from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode, StoreError
from dkey.lifecycle.ledger import Entry, Head
from dkey.lifecycle.slots import (
    PeerSeen,
    free_slot,
    peer_last_seen,
    remember_peer,
    slots,
    take_slot,
)
from tests.durability.side import Side, copy, make, tamper


@pytest.fixture
def path(tmp_path):
    return make(tmp_path / "side.db")


@pytest.fixture
def side(path):
    with Side(path) as opened:
        yield opened


@pytest.fixture
def long(path):
    """A closed file of 30 entries, of which the last ten stand behind the snapshot."""
    with Side(path) as opened:
        for number in range(1, 31):
            with opened.file.transaction():
                opened.ledger.append("share" if number % 2 else "revoke", b"entry %d" % number)
                if number in (5, 10, 20):
                    opened.ledger.snapshot(b"state %d" % number)
    return path


def test_entries_come_back_in_order_after_a_restart(path):
    with Side(path) as side:
        side.append(b"one")
        side.append(b"two", b"")
    with Side(path, seed=2) as side:
        assert list(side.ledger.entries()) == [
            Entry(seq=1, kind="share", body=b"one"),
            Entry(seq=2, kind="share", body=b"two"),
            Entry(seq=3, kind="share", body=b""),
        ]
        assert [entry.seq for entry in side.ledger.entries(after_seq=2)] == [3]


def test_more_entries_than_a_page_come_back(side):
    side.append(*(b"%d" % number for number in range(2500)))
    assert side.bodies() == [b"%d" % number for number in range(2500)]


def test_an_empty_ledger_has_a_head_of_nothing(side):
    assert side.ledger.head == Head(seq=0, digest=bytes(32))
    assert side.ledger.restored() == (None, ())


def test_an_entry_needs_an_open_transaction(side):
    with pytest.raises(LocalFault, match="outside a transaction"):
        side.ledger.append("share", b"")
    with pytest.raises(LocalFault, match="outside a transaction"):
        side.ledger.snapshot(b"")


@pytest.mark.parametrize("kind", ["", "x" * 33, "clé"])
def test_a_kind_is_1_to_32_letters(side, kind):
    with side.file.transaction(), pytest.raises(LocalFault, match="kind"):
        side.ledger.append(kind, b"")


def test_a_rolled_back_entry_never_was(side):
    side.append(b"one")
    before = side.ledger.head

    def torn():
        with side.file.transaction():
            side.ledger.append("share", b"lost")
            raise KeyError

    with pytest.raises(KeyError):
        torn()
    assert side.ledger.head == before
    side.append(b"two")
    assert side.bodies() == [b"one", b"two"]
    side.ledger.verify()


def test_two_openings_of_one_file_append_in_turn(path, side):
    with Side(path, seed=2) as other:
        for number in range(0, 20, 2):
            side.append(b"%d" % number)
            other.append(b"%d" % (number + 1))
        assert other.bodies() == side.bodies() == [b"%d" % number for number in range(20)]
        assert other.ledger.head == side.ledger.head
        side.ledger.verify()


def test_a_body_is_not_in_the_file(path):
    with Side(path) as side:
        side.append(b"who may drive my car")
    assert b"drive my car" not in path.read_bytes()


def test_a_restart_takes_the_newest_snapshot_and_what_came_after(long):
    with Side(long) as side:
        state, after = side.ledger.restored()
        assert state == b"state 20"
        assert [entry.seq for entry in after] == list(range(21, 31))


def test_the_last_two_snapshots_are_kept(long):
    with Side(long) as side:
        assert side.file.rows("SELECT seq FROM ledger_snapshot ORDER BY seq") == [(10,), (20,)]


def test_a_snapshot_at_the_same_entry_takes_the_place_of_the_older(side):
    for state in (b"first", b"second"):
        with side.file.transaction():
            side.ledger.snapshot(state)
    assert side.ledger.restored() == (b"second", ())


def test_a_sound_ledger_verifies(long):
    with Side(long) as side:
        side.ledger.verify()


def test_another_key_does_not_open_it(long):
    with pytest.raises(StoreError, match="snapshot of entry 20 of the ledger does not open"):
        Side(long, key=Secret(bytes(32)))


# Damage. Each is found before anything is read from the ledger, and names the entry.

FLIP = "UPDATE ledger_entry SET sealed = zeroblob(length(sealed)) WHERE seq = {0}"
SWAP = """UPDATE ledger_entry SET sealed = (SELECT o.sealed FROM ledger_entry o
    WHERE o.seq = {0} + {1} - ledger_entry.seq) WHERE seq IN ({0}, {1})"""


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        ([FLIP.format(1)], "entry 1 of the ledger changed"),
        ([FLIP.format(17)], "entry 17 of the ledger changed"),
        ([FLIP.format(30)], "entry 30 of the ledger changed"),
        (["UPDATE ledger_entry SET kind = 'shard' WHERE seq = 7"], "entry 7 of the ledger changed"),
        (
            ["UPDATE ledger_entry SET running = zeroblob(32) WHERE seq = 9"],
            "entry 9 of the ledger changed",
        ),
        (["DELETE FROM ledger_entry WHERE seq = 1"], "entry 1 of the ledger is missing"),
        (["DELETE FROM ledger_entry WHERE seq = 12"], "entry 12 of the ledger is missing"),
        (["DELETE FROM ledger_entry WHERE seq > 15"], "entry 16 of the ledger is missing"),
        (
            [
                "UPDATE ledger_entry SET seq = 99 WHERE seq = 3",
                "UPDATE ledger_entry SET seq = 3 WHERE seq = 5",
                "UPDATE ledger_entry SET seq = 5 WHERE seq = 99",
            ],
            "entry 3 of the ledger changed",
        ),
        (["UPDATE ledger_entry SET seq = 31 WHERE seq = 30"], "entry 30 of the ledger is missing"),
        (["DELETE FROM ledger"], "rows are missing"),
        (["UPDATE ledger SET id = zeroblob(16)"], "a row of ledger changed"),
        (["UPDATE ledger_snapshot SET sealed = x'00'"], "a row of ledger_snapshot changed"),
    ],
)
def test_a_damaged_ledger_refuses_to_open_and_names_the_entry(long, statements, named):
    tamper(long, *statements)
    before = long.read_bytes()
    with pytest.raises(StoreError, match=named) as caught:
        Side(long)
    assert caught.value.hint
    assert long.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (FLIP.format(4), "snapshot of entry 20"),  # the snapshot stands for what is before it
        (FLIP.format(20), "snapshot of entry 20"),
        (FLIP.format(21), "entry 21"),
        (FLIP.format(30), "entry 30"),
        (SWAP.format(23, 25), "entry 23"),
        ("UPDATE ledger_entry SET kind = 'shard' WHERE seq = 26", "entry 26"),
    ],
)
def test_an_entry_exchanged_with_the_chain_mended_does_not_open(long, statement, named):
    tamper(long, statement, rechain=True)
    with pytest.raises(StoreError, match=f"{named} of the ledger does not open"):
        Side(long)


def test_an_entry_of_another_history_of_the_same_ledger_does_not_open(path, tmp_path):
    with Side(path) as side:
        side.append(b"owner")
    other = copy(path, tmp_path / "backup.db")
    for place, friend in ((path, b"revoke"), (other, b"share")):
        with Side(place, seed=place.name) as side:
            side.append(friend)
            side.append(b"same number, same kind")
    with closing(sqlite3.connect(other)) as db:
        (sealed,) = db.execute("SELECT sealed FROM ledger_entry WHERE seq = 3").fetchone()
    stale = f"UPDATE ledger_entry SET sealed = x'{sealed.hex()}' WHERE seq = 3"
    tamper(path, stale, rechain=True)
    with pytest.raises(StoreError, match="entry 3 of the ledger does not open"):
        Side(path)


def test_an_entry_of_another_ledger_under_the_same_key_does_not_open(path, tmp_path):
    other = tmp_path / "other.db"
    make(other, seed="another id")
    with Side(path) as side:
        side.append(b"mine")
        ((kind, sealed),) = side.file.rows("SELECT kind, sealed FROM ledger_entry")
    stolen = f"INSERT INTO ledger_entry VALUES (1, '{kind}', x'{sealed.hex()}', x'')"
    tamper(other, stolen, rechain=True)
    with pytest.raises(StoreError, match="entry 1 of the ledger does not open"):
        Side(other)


def test_a_file_with_any_byte_changed_refuses_or_tells_the_same(long):
    chance, sound = random.Random(7), long.read_bytes()
    with Side(long) as side:
        told = side.bodies(), side.ledger.restored()
    refused = 0
    for _ in range(600):
        data = bytearray(sound)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        long.write_bytes(data)
        try:
            with Side(long) as side:
                assert (side.bodies(), side.ledger.restored()) == told
                side.ledger.verify()
        except StoreError:
            refused += 1
    assert refused > 60, "the flips hit something"


@pytest.mark.parametrize(
    "kind",
    ["x" * 300, "x" * 100_000, "\N{SNOWMAN}", "", "nul\0nul"],
    ids=lambda kind: f"{len(kind)}",
)
def test_a_kind_of_any_form_in_the_file_is_a_changed_entry(long, kind):
    written = kind.encode().hex()
    tamper(long, f"UPDATE ledger_entry SET kind = CAST(x'{written}' AS TEXT) WHERE seq = 7")
    with pytest.raises(StoreError, match="entry 7 of the ledger changed"):
        Side(long)


def test_reading_checks_again_what_changed_while_the_file_was_open(long):
    with Side(long) as side:
        tamper(long, FLIP.format(4))
        with pytest.raises(StoreError, match="entry 4 of the ledger changed"):
            side.ledger.verify()


def test_the_file_refuses_to_change_or_delete_an_entry(long):
    with closing(sqlite3.connect(long)) as db:
        for statement in ("DELETE FROM ledger_entry", "UPDATE ledger_entry SET kind = 'x'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)


def test_the_loss_of_the_last_entries_is_not_seen_in_the_file(path):
    """Stated, not wished: what the peers saw last is there for this."""
    with Side(path) as side:
        side.append(b"one", b"two")
    tamper(path, "DELETE FROM ledger_entry WHERE seq = 2")
    with Side(path) as side:
        assert side.bodies() == [b"one"]


# Places of shares.


def test_places_are_given_lowest_first_and_a_fourth_share_is_refused(side):
    with side.file.transaction():
        assert [take_slot(side.file, share) for share in (b"a", b"b", b"c")] == [1, 2, 3]
        with pytest.raises(PolicyRefusal) as caught:
            take_slot(side.file, b"d")
        assert caught.value.code is RefusalCode.SHARE_LIMIT
        free_slot(side.file, b"b")
        assert take_slot(side.file, b"d") == 2
    assert slots(side.file) == {1: b"a", 2: b"d", 3: b"c"}


def test_a_share_keeps_its_place(side):
    with side.file.transaction():
        assert take_slot(side.file, b"a", 2) == 2
        assert take_slot(side.file, b"a") == take_slot(side.file, b"a", 2) == 2
        with pytest.raises(LocalFault, match="has place 2"):
            take_slot(side.file, b"a", 3)
        with pytest.raises(PolicyRefusal) as caught:
            take_slot(side.file, b"b", 2)
        assert caught.value.code is RefusalCode.SHARE_LIMIT


@pytest.mark.parametrize("slot", [0, 4, -1])
def test_there_are_three_places(side, slot):
    with side.file.transaction(), pytest.raises(LocalFault, match="no place"):
        take_slot(side.file, b"a", slot)


def test_a_place_is_taken_in_a_transaction_only(side):
    with pytest.raises(LocalFault, match="outside a transaction"):
        take_slot(side.file, b"a")
    with pytest.raises(LocalFault, match="outside a transaction"):
        remember_peer(side.file, b"p", PeerSeen(epoch=1, number=1))


# What peers were last seen at.


def test_a_peer_goes_forward_and_never_back(side):
    peer = b"vehicle"
    assert peer_last_seen(side.file, peer) is None
    for epoch, number in ((1, 5), (1, 5), (1, 6), (2, 0)):
        with side.file.transaction():
            remember_peer(side.file, peer, PeerSeen(epoch=epoch, number=number))
    for epoch, number in ((1, 7), (0, 99)):
        with side.file.transaction(), pytest.raises(PolicyRefusal) as caught:
            remember_peer(side.file, peer, PeerSeen(epoch=epoch, number=number))
        assert caught.value.code is RefusalCode.REPLAY
    assert peer_last_seen(side.file, peer) == PeerSeen(epoch=2, number=0)


def test_an_entry_of_other_rules_is_not_repeated_and_says_so(path, monkeypatch):
    with Side(path) as side:
        side.append(b"one")
    monkeypatch.setattr("dkey.lifecycle.ledger.RULES_VERSION", 2)
    with pytest.raises(StoreError, match="accepted under rules 1, and this program has rules 2"):
        Side(path, seed=2).__enter__()


def test_a_snapshot_carries_the_state_to_other_rules(path, monkeypatch):
    with Side(path) as side:
        side.append(b"one")
        assert side.ledger.unsaved
        with side.file.transaction():
            side.ledger.snapshot(b"state")
        assert not side.ledger.unsaved
    monkeypatch.setattr("dkey.lifecycle.ledger.RULES_VERSION", 2)
    with Side(path, seed=2) as side:
        assert side.ledger.restored() == (b"state", ())
        side.append(b"two")
        assert [each.rules for each in side.ledger.entries()] == [1, 2]
