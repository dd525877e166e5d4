"""The book of keys: killed at any write and any commit, it is as before the step or as after it."""

from __future__ import annotations

import contextlib
import random
import shutil

import pytest
from agent_world import GROUP
from key_world import FRIENDS, OWNER, paired

from dkey.agent.key_accepting import Friend
from dkey.agent.key_records import BookState, Kind
from dkey.agent.key_sharing import Offer, Sharer
from dkey.agent.store import AgentStore, KeyState
from dkey.codec import cbor
from dkey.crypto.secret import Secret
from dkey.errors import PolicyRefusal, RefusalCode, StoreError
from dkey.lifecycle import durable
from dkey.lifecycle.attestation import read_attestation
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.commands import Invite, Revoke, Suspend
from dkey.lifecycle.parcel import VehicleReceipt
from dkey.lifecycle.roles import Permission, Role
from dkey.testing import SeededEntropy

NOW_S = 1_790_000_000
FRIEND = FRIENDS[0]


class Killed(BaseException):
    """The process ended here."""


class Faults:
    """Ends the process at the n-th of all writes and commits; counts them without one."""

    def __init__(self, monkeypatch) -> None:
        self.left: int | None = None
        self.passed = 0
        for owner, name in (
            (durable.DurableFile, "put"),
            (durable.DurableFile, "write"),
            (durable.DurableFile, "delete"),
            (durable._Transaction, "_run"),
        ):
            monkeypatch.setattr(owner, name, self.around(getattr(owner, name)))

    def around(self, call):
        def called(*args, **how):
            self.point()
            found = call(*args, **how)
            self.point()
            return found

        return called

    def point(self) -> None:
        self.passed += 1
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed


class Phones:
    """The owner's and a friend's phone, and what one sent the other."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.mail: dict[str, bytes] = {}
        self.answers: set[bytes] = set()
        self.owner, self.friend = self.opened("owner"), self.opened("friend")

    def opened(self, name: str) -> AgentStore:
        return AgentStore.open(
            self.folder / name,
            entropy=SeededEntropy(random.random()),
            create=True,
            clock=lambda: NOW_S,
        )

    def close(self) -> None:
        self.owner.close()
        self.friend.close()

    @property
    def sharer(self) -> Sharer:
        return Sharer(self.owner, SeededEntropy(random.random()))

    @property
    def accepting(self) -> Friend:
        return Friend(self.friend, SeededEntropy(random.random()))

    @property
    def share_id(self) -> bytes:
        return self.sharer.exchanges()[0].share_id

    def shape(self):
        """What both books say, without what chance decided."""
        return [_shape(store) for store in (self.owner, self.friend)]

    # Each step may be done again when nobody knows whether it was done.

    def invite(self) -> None:
        offer = Offer(
            account=FRIEND,
            role=Role.ASSOCIATE,
            permission=Permission.ENTRY,
            not_before_s=NOW_S,
            not_after_s=NOW_S + 86400,
        )
        if not self.sharer.exchanges():
            self.sharer.invite(GROUP, offer)
        link = self.sharer.link(self.sharer.exchanges()[0])
        self.mail["invitation"] = link.envelope
        self.secret = link.secret

    def open(self) -> None:
        self.accepting.open(self.secret, self.mail["invitation"])

    def request(self) -> None:
        self.mail["request"] = self.accepting.request(self.share_id).envelope

    def take_request(self) -> None:
        self.sharer.take(self.mail["request"])

    def sign(self) -> None:
        value = self.sharer.value(self.sharer.find(self.share_id))
        answer = self.sharer.sign(self.share_id, value.fingerprint).envelope
        self.answers.add(answer)
        self.mail["answer"] = answer

    def take_answer(self) -> None:
        self.mail["receipt"] = self.accepting.answer(self.share_id, self.mail["answer"]).envelope

    def take_receipt(self) -> None:
        self.sharer.take(self.mail["receipt"])

    def suspend(self) -> None:
        with self.owner.keys.change() as change:
            change.command(GROUP, Suspend(actor=OWNER, item=self.share_id))

    def revoke(self) -> None:
        with self.owner.keys.change() as change:
            change.command(GROUP, Revoke(actor=OWNER, item=self.share_id))

    STEPS = (
        *("invite", "open", "request", "take_request", "sign", "take_answer"),
        *("take_receipt", "suspend", "revoke"),
    )


def _shape(store: AgentStore):
    state = store.keys.state
    books = [
        (
            len(book.chain),
            [(held.issuer, held.number) for held in book.lists],
            [(s.state, s.ended, len(s.holds), s.key_x is None) for s in book.ring.shares],
        )
        for book in state.vehicles
    ]
    exchanges = []
    for each in state.exchanges:
        value = cbor.decode(each.value)
        exchanges.append((each.end, value["state"], value.get("answer") is None))
    return books, exchanges, [(each.state, each.key[:5]) for each in store.vehicles()]


@pytest.fixture
def phones(tmp_path):
    made = Phones(tmp_path / "phones")
    made.owner.add(paired(), made.owner.new_key())
    made.owner.set_state(GROUP, KeyState.SYNCED)
    made.owner.keys.own(GROUP, account=OWNER)
    yield made
    made.close()


def again(phones: Phones, folder) -> Phones:
    """Return copies of the phones, as they lie on the disk."""
    shutil.copytree(phones.folder, folder)
    made = Phones(folder)
    made.mail, made.secret = dict(phones.mail), getattr(phones, "secret", None)
    made.answers = set(phones.answers)
    return made


@pytest.mark.parametrize("step", Phones.STEPS)
def test_killed_at_any_point_a_step_was_made_whole_or_not_at_all(
    phones, tmp_path, monkeypatch, step
):
    steps = list(Phones.STEPS)
    for name in steps[: steps.index(step)]:
        getattr(phones, name)()
    before = phones.shape()
    with contextlib.closing(again(phones, tmp_path / "whole")) as whole:
        getattr(whole, step)()
        neighbours = [before, whole.shape()]
    assert neighbours[0] != neighbours[1]
    faults = Faults(monkeypatch)
    found = set()
    for point in range(1, 200):
        killed = again(phones, tmp_path / str(point))
        faults.left = point
        ended = False
        try:
            getattr(killed, step)()
        except Killed:
            ended = True
        faults.left = None
        killed.close()
        if not ended:
            break
        resumed = Phones(killed.folder)
        resumed.mail, resumed.secret = killed.mail, getattr(killed, "secret", None)
        found.add(neighbours.index(resumed.shape()))
        resumed.answers = killed.answers
        for name in steps[steps.index(step) :]:
            getattr(resumed, name)()
        book = resumed.friend.keys.book(GROUP)
        assert read_attestation(book.chain[-1]).claims.slot == 1
        assert len(resumed.answers) == 1
        assert resumed.owner.keys.book(GROUP).held(Issuer.OWNER) is not None
        resumed.close()
    else:
        raise AssertionError("the step never ends")
    assert found == {0, 1}


def test_what_another_process_committed_is_seen_before_a_change(phones):
    other = phones.opened("owner")
    phones.invite()
    with pytest.raises(PolicyRefusal) as refused, other.keys.change() as change:
        change.command(GROUP, Revoke(actor=FRIEND, item=phones.share_id))
    assert refused.value.code is RefusalCode.NOT_AUTHORISED
    with other.keys.change() as change:
        change.command(GROUP, Revoke(actor=OWNER, item=phones.share_id))
    assert phones.owner.keys.book(GROUP).ring.live == ()
    other.close()


def test_two_processes_never_sign_two_lists_with_one_number(phones):
    other = phones.opened("owner")
    phones.invite()
    numbers = []
    for store, kind in ((phones.owner, Suspend), (other, Revoke)):
        with store.keys.change() as change:
            change.command(GROUP, kind(actor=OWNER, item=phones.share_id))
        numbers.append(store.keys.book(GROUP).held(Issuer.OWNER).number)
    assert numbers == [1, 2]
    other.close()


def test_a_change_that_fails_leaves_nothing(phones):
    before = phones.owner.keys.state
    with pytest.raises(PolicyRefusal), phones.owner.keys.change() as change:
        _revoked_by_nobody(change)
    assert phones.owner.keys.state == before


def _revoked_by_nobody(change) -> None:
    share_id = bytes(15) + b"1"
    offered = Invite(
        actor=OWNER,
        share_id=share_id,
        account=FRIEND,
        role=Role.ASSOCIATE,
        permission=Permission.ENTRY,
        not_before_s=NOW_S,
        not_after_s=NOW_S + 5,
    )
    change.command(GROUP, offered)
    change.command(GROUP, Revoke(actor="nobody@example.org", item=share_id))


def test_a_snapshot_and_the_entries_tell_the_same(phones):
    for number in range(1, 120):
        phones.owner.keys.note_receipt(GROUP, VehicleReceipt(epoch=1, admissions=number))
    phones.invite()
    kept = phones.owner.keys.state
    assert phones.owner.file.rows("SELECT count(*) FROM ledger_snapshot") != [(0,)]
    with contextlib.closing(phones.opened("owner")) as reopened:
        assert reopened.keys.state == kept
    assert BookState.parse(kept.to_bytes()) == kept


def test_a_receipt_that_says_the_same_is_kept_once(phones):
    receipt = VehicleReceipt(epoch=1, owner_list=1)
    phones.owner.keys.note_receipt(GROUP, receipt)
    head = phones.owner.ledger.head
    phones.owner.keys.note_receipt(GROUP, receipt)
    assert phones.owner.ledger.head == head


def test_an_entry_that_cannot_have_happened_does_not_open(phones):
    with phones.owner.file.transaction():
        phones.owner.ledger.append(Kind.ANSWERED, cbor.encode([GROUP, 7, None, ""]))
    with pytest.raises(StoreError, match="cannot be repeated"):
        phones.opened("owner")


def test_secrets_of_an_exchange_stand_nowhere_in_the_file(phones):
    phones.invite()
    raw = (phones.folder / "owner" / "agent.db").read_bytes()
    raw += (phones.folder / "owner" / "agent.db-wal").read_bytes()
    assert phones.secret.reveal() not in raw
    assert FRIEND.encode() not in raw
    assert phones.secret != Secret(bytes(32))
