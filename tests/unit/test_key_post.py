"""Sharing through a relay's mailbox: whoever dies comes back, and nothing is written over."""

from __future__ import annotations

import random

import pytest
from agent_world import GROUP
from key_world import FRIENDS, OWNER, paired

from dkey.agent.key_accepting import Friend
from dkey.agent.key_post import FriendPost, Progress, SharerPost, claim_of
from dkey.agent.key_records import Post
from dkey.agent.key_settling import settle
from dkey.agent.key_sharing import Offer, Sharer
from dkey.agent.store import AgentStore, KeyState
from dkey.crypto.secret import Secret
from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.roles import Permission, Role
from dkey.testing import SeededEntropy

NOW_S = 1_790_000_000
RELAY = "https://relay.example"


class Killed(BaseException):
    """The process ended here."""


class Relay:
    """One mailbox; carries a repeated request out once; may die after any of its answers."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.done: set[bytes] = set()
        self.dies = 0

    def create(self, envelope, *, expires_s, request):
        self.once(request, envelope)
        return bytes(15) + b"1"

    def read(self, mailbox):
        if self.content is None:
            raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, "there is no such mailbox")
        return self.content

    def update(self, mailbox, envelope, *, request):
        self.read(mailbox)
        self.once(request, envelope)

    def delete(self, mailbox, *, request):
        self.once(request, None)

    def once(self, request, content):
        if request not in self.done:
            self.done.add(request)
            self.content = content
        self.dies -= 1
        if self.dies == 0:
            raise Killed


class Both:
    def __init__(self, folder, *, pin: bool = False) -> None:
        self.relay = Relay()
        self.entropy = SeededEntropy(random.random())
        self.owner, self.phone = (self.store(folder / name) for name in ("owner", "friend"))
        self.owner.add(paired(), self.owner.new_key())
        self.owner.set_state(GROUP, KeyState.SYNCED)
        self.owner.keys.own(GROUP, account=OWNER)
        self.sharer = Sharer(self.owner, self.entropy)
        self.friend = Friend(self.phone, self.entropy)
        offer = Offer(
            account=FRIENDS[0],
            role=Role.ASSOCIATE,
            permission=Permission.ENTRY,
            not_before_s=NOW_S,
            not_after_s=NOW_S + 86400,
            pin=pin,
            relay=RELAY,
        )
        self.share_id = self.sharer.invite(GROUP, offer).share_id
        self.out = SharerPost(self.sharer, self.share_id, self.relay)

    def store(self, folder) -> AgentStore:
        return AgentStore.open(
            folder, entropy=SeededEntropy(random.random()), create=True, clock=lambda: NOW_S
        )

    @property
    def value(self):
        return self.sharer.value(self.sharer.find(self.share_id))

    def accept(self, pin: bytes | None = None) -> FriendPost:
        post = Post(base=RELAY, claim=bytes(16), mailbox=bytes(15) + b"1")
        if not self.friend.exchanges():
            self.friend.open(self.value.secret, self.relay.read(post.mailbox), post=post)
        self.friend.request(self.share_id, pin=None if pin is None else Secret(pin))
        box = FriendPost(self.friend, self.share_id, self.relay)
        box.ask()
        return box

    def sign(self) -> None:
        assert self.out.step() is Progress.COMPARE
        self.sharer.sign(self.share_id, self.value.fingerprint)
        self.out.answer()

    def close(self) -> None:
        self.owner.close()
        self.phone.close()


@pytest.fixture
def both(tmp_path):
    made = Both(tmp_path)
    yield made
    made.close()


def test_a_key_goes_through_one_mailbox_and_the_mailbox_is_gone(both):
    both.out.leave()
    box = both.accept()
    assert box.step() is Progress.WAITING
    both.sign()
    assert box.step() is Progress.DONE
    assert both.out.step() is Progress.DONE
    assert both.relay.content is None


def test_the_mailbox_never_holds_what_a_relay_could_read(both):
    both.out.leave()
    assert FRIENDS[0].encode() not in both.relay.content
    assert GROUP.hex().encode() not in both.relay.content


@pytest.mark.parametrize("at", range(1, 6))
def test_whoever_dies_after_any_message_comes_back_and_ends_it(both, at):
    both.relay.dies = at
    died = False
    for _ in range(12):
        try:
            both.out.leave()
            progress = both.out.step()
            if progress is Progress.COMPARE:
                both.sharer.sign(both.share_id, both.value.fingerprint)
                both.out.answer()
            if progress is Progress.DONE:
                break
            both.accept().step()
        except Killed:
            died = True
    assert died
    assert both.phone.keys.book(GROUP).chain
    assert both.value.state.name == "IMPORTED"


def test_a_friend_who_comes_back_does_not_write_over_the_answer(both):
    both.out.leave()
    both.accept()
    both.sign()
    answer = both.relay.content
    both.relay.done.clear()  # the relay does not remember requests for ever
    box = both.accept()
    assert both.relay.content == answer
    assert box.step() is Progress.DONE


def test_a_sharer_who_comes_back_answers_a_request_again_with_the_same_bytes(both):
    both.out.leave()
    both.accept()
    request = both.relay.content
    both.sign()
    answer = both.relay.content
    both.relay.content = request
    both.relay.done.clear()
    assert both.out.step() is Progress.WAITING
    assert both.relay.content == answer


def test_a_wrong_pin_is_told_to_the_friend_who_may_try_again(tmp_path):
    both = Both(tmp_path, pin=True)
    both.out.leave()
    wrong = b"000000" if both.value.pin.reveal() != b"000000" else b"000001"
    box = both.accept(wrong)
    with pytest.raises(PolicyRefusal) as refused:
        both.out.step()
    assert refused.value.code is RefusalCode.NOT_AUTHORISED
    with pytest.raises(PolicyRefusal) as told:
        box.step()
    assert "PIN" in str(told.value)
    box = both.accept(both.value.pin.reveal())
    both.sign()
    assert box.step() is Progress.DONE
    both.close()


def test_the_third_wrong_pin_ends_it(tmp_path):
    both = Both(tmp_path, pin=True)
    both.out.leave()
    codes = []
    for number in range(3):
        wrong = b"00000%d" % number
        if wrong == both.value.pin.reveal():
            wrong = b"999999"
        both.accept(wrong)
        with pytest.raises(PolicyRefusal) as refused:
            both.out.step()
        codes.append(refused.value.code)
    assert codes[-1] is RefusalCode.CODE_LOCKED_OUT
    both.close()


def test_an_invitation_that_was_taken_back_is_not_waited_for(both):
    both.out.leave()
    with both.owner.keys.change() as change:
        both.sharer.stop(change, both.share_id)
    with pytest.raises(PolicyRefusal):
        both.out.step()


def test_an_invitation_that_ran_out_gives_its_place_back(both, monkeypatch):
    both.out.leave()
    monkeypatch.setattr(both.owner.keys, "_clock", lambda: NOW_S + 90_000)
    settle(both.owner, both.entropy)
    assert both.owner.keys.book(GROUP).ring.live == ()
    with pytest.raises(PolicyRefusal) as over:
        both.out.step()
    assert over.value.code is RefusalCode.CODE_TIMEOUT
    head = both.owner.ledger.head
    settle(both.owner, both.entropy)
    assert both.owner.ledger.head == head


def test_a_friend_s_claim_is_the_same_again_and_another_for_another_store():
    secret = Secret(bytes(32))
    assert claim_of(secret, b"one") == claim_of(secret, b"one")
    assert claim_of(secret, b"one") != claim_of(secret, b"two")
