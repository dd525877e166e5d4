"""The agent and the authority: told once, in order, and what is refused is taken back or shown."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from agent_world import GROUP
from key_world import FRIENDS, OWNER, paired

from dkey.agent.key_authority import Desk
from dkey.agent.key_records import KeyLink
from dkey.agent.key_sharing import Offer, Sharer
from dkey.agent.key_views import DISAGREES, vehicle_line
from dkey.agent.store import AgentStore, KeyState
from dkey.crypto.vault import MemoryVault
from dkey.errors import LinkError, LinkReason, PolicyRefusal, RefusalCode
from dkey.lifecycle.claims import Issuer, WithdrawalClaims
from dkey.lifecycle.commands import Found, Invite, Revoke, Suspend
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.ring_state import Ended
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.withdrawal import sign_withdrawal
from dkey.testing import SeededEntropy

NOW_S = 1_790_000_000
FRIEND = FRIENDS[0]
KEY = SeededEntropy("authority").ephemeral()
LINK = KeyLink(url="https://authority.example", token="secret", key=KEY.public.point)


class Killed(BaseException):
    """The process ended here."""


@dataclass
class Key:
    item: str
    role: str
    state: str
    account: str | None


@dataclass
class Outcome:
    effects: tuple[dict, ...] = ()


@dataclass
class Keys:
    keys: tuple[Key, ...]


@dataclass
class Authority:
    """An authority whose answers are as the test wants."""

    asked: list = field(default_factory=list)
    members: set = field(default_factory=set)
    away: bool = False
    says: dict = field(default_factory=dict)
    listed: list = field(default_factory=list)
    raw: bytes | None = None
    slot: int | None = None
    dies: bool = False

    def execute(self, vehicle, command):
        self.check()
        self.asked.append(command)
        if refusal := self.says.get(type(command)):
            raise PolicyRefusal(refusal, "said by the authority")
        if isinstance(command, Found):
            self.members.add(command.actor)
        if isinstance(command, Invite):
            self.listed.append(
                Key(command.share_id.hex(), command.role.value, "PENDING", command.account)
            )
            self.says[Invite] = RefusalCode.REPLAY if self.dies else None
        if self.dies:
            self.dies = False
            raise Killed
        offered = {"effect": "KeyOffered", "item": getattr(command, "share_id", b"").hex()}
        return Outcome(({**offered, "slot": self.slot},) if self.slot else ())

    def keys(self, vehicle, actor):
        self.check()
        if actor not in self.members:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "no key here")
        return Keys(tuple(self.listed))

    def withdrawal_list(self, vehicle, actor):
        self.check()
        if self.raw is None:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "no list")
        return self.raw

    def check(self):
        if self.away:
            raise LinkError(LinkReason.ABSENT, "it is away")


class Side:
    def __init__(self, store: AgentStore) -> None:
        self.store = store
        self.authority = Authority()
        self.entropy = SeededEntropy(random.random())
        self.desk = Desk(store, GROUP, self.authority, self.entropy)

    def linked(self) -> Side:
        self.desk.link(LINK)
        self.desk.sync()
        return self

    def invite(self, account: str = FRIEND) -> bytes:
        offer = Offer(
            account=account,
            role=Role.ASSOCIATE,
            permission=Permission.ENTRY,
            not_before_s=NOW_S,
            not_after_s=NOW_S + 86400,
        )
        return Sharer(self.store, self.entropy).invite(GROUP, offer).share_id

    def do(self, command) -> None:
        with self.store.keys.change() as change:
            change.command(GROUP, command)

    @property
    def book(self):
        return self.store.keys.book(GROUP)

    def line(self, account: str = FRIEND):
        keys = vehicle_line(self.store, GROUP).keys
        return next(each for each in keys if each.account == account)


@pytest.fixture
def side(tmp_path):
    store = AgentStore.open(
        tmp_path / "owner",
        entropy=SeededEntropy(random.random()),
        create=True,
        clock=lambda: NOW_S,
    )
    store.add(paired(), store.new_key())
    store.set_state(GROUP, KeyState.SYNCED)
    store.keys.own(GROUP, account=OWNER)
    yield Side(store)
    store.close()


def signed(number: int, *, key=KEY, **said) -> bytes:
    claims = WithdrawalClaims(
        vehicle=GROUP, epoch=1, issuer=Issuer.AUTHORITY, number=number, issued_s=NOW_S, **said
    )
    return sign_withdrawal(claims, MemoryVault(a=key), "a")


def test_an_owner_whom_it_does_not_know_is_founded_there(side):
    side.linked()
    (found,) = side.authority.asked
    assert isinstance(found, Found)
    assert found.owner.account == OWNER
    assert found.key_x == side.book.ring.owner_key_x


def test_an_owner_whom_it_knows_is_not_founded_twice(side):
    side.authority.members.add(OWNER)
    side.linked()
    assert side.authority.asked == []


def test_what_is_done_is_told_in_order_and_once(side):
    side.linked()
    share_id = side.invite()
    side.do(Suspend(actor=OWNER, item=share_id))
    for _ in range(2):
        assert side.desk.sync().reached
    assert [type(each) for each in side.authority.asked] == [Found, Invite, Suspend]
    assert side.book.waiting == ()


def test_an_authority_that_is_away_is_told_later(side):
    side.linked()
    side.authority.away = True
    side.invite()
    assert not side.desk.sync().reached
    assert len(side.book.waiting) == 1
    assert side.line().waiting
    side.authority.away = False
    assert side.desk.sync().reached
    assert not side.line().waiting


def test_an_invitation_that_it_refuses_is_taken_back(side):
    side.linked()
    share_id = side.invite()
    side.authority.says[Invite] = RefusalCode.SHARE_LIMIT
    (refused,) = side.desk.sync().refused
    assert refused.code is RefusalCode.SHARE_LIMIT
    assert side.book.ring.share(share_id).ended is Ended.REVOKED
    assert side.book.waiting == ()
    for _ in range(MAX_SHARES):
        side.authority.says[Invite] = None
        side.invite(f"f{random.random()}@example.org")


def test_another_refusal_stays_done_here_and_is_shown(side):
    side.linked()
    share_id = side.invite()
    side.desk.sync()
    side.authority.says[Revoke] = RefusalCode.NOT_AUTHORISED
    side.do(Revoke(actor=OWNER, item=share_id))
    assert [each.code for each in side.desk.sync().refused] == [RefusalCode.NOT_AUTHORISED]
    line = side.line()
    assert (line.state, line.here, line.authority) == (DISAGREES, "REVOKED", "PENDING")
    assert [each.code for each in side.book.refused] == ["NOT_AUTHORISED"]


def test_a_phone_killed_before_the_answer_does_not_invite_twice(side):
    side.linked()
    share_id = side.invite()
    side.authority.dies = True
    with pytest.raises(Killed):
        side.desk.sync()
    assert len(side.book.waiting) == 1
    assert side.desk.sync().refused == ()
    assert side.book.waiting == ()
    assert side.book.ring.share(share_id).ended is None


def test_the_authority_s_place_goes_into_the_signature(side):
    side.linked()
    side.authority.slot = 3
    share_id = side.invite()
    side.desk.sync()
    assert Sharer(side.store, side.entropy).find(share_id).slot == 3


def test_a_newer_list_of_the_authority_is_carried(side):
    side.linked()
    for number in (2, 1):
        side.authority.raw = signed(number)
        side.desk.sync()
    assert side.book.held(Issuer.AUTHORITY).number == 2


def test_a_list_with_another_s_signature_is_not_carried(side):
    side.linked()
    side.authority.raw = signed(2, key=SeededEntropy("forger").ephemeral())
    reached = side.desk.sync()
    assert not reached.reached
    assert reached.text == "the statement names another signer"
    assert side.book.held(Issuer.AUTHORITY) is None


def test_the_owner_who_is_suspended_by_the_authority_sees_it(side):
    side.linked()
    side.authority.raw = signed(2, all_suspended=True)
    side.desk.sync()
    assert side.line(OWNER).here == "SUSPENDED"


def test_a_key_that_only_the_authority_knows_is_a_disagreement(side):
    side.linked()
    side.authority.listed.append(Key("ab" * 16, "ASSOCIATE", "ACTIVE", "x@example.org"))
    side.desk.sync()
    line = side.line("x@example.org")
    assert (line.state, line.here, line.authority) == (DISAGREES, None, "ACTIVE")


def test_a_card_that_the_authority_tells_of_can_be_withdrawn_here(side):
    side.linked()
    side.authority.listed.append(Key("cd" * 16, "CARD", "ACTIVE", OWNER))
    side.desk.sync()
    side.do(Suspend(actor=OWNER, item=bytes.fromhex("cd" * 16)))
    assert side.book.ring.card(bytes.fromhex("cd" * 16)).holds


def test_the_token_stands_in_no_repr(side):
    side.linked()
    assert "secret" not in repr(side.store.keys.state)
