"""The phone's side of shared keys: its book, its mailbox, its authority (cases 15, 16, 18, 28)."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dkey.agent.carried import CarriedStore
from dkey.agent.key_accepting import Friend
from dkey.agent.key_authority import Desk
from dkey.agent.key_book import DEFAULT_ACCOUNT
from dkey.agent.key_records import KeyLink
from dkey.agent.key_sharing import Offer, Sharer
from dkey.agent.store import AgentStore, KeyState
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import AuthenticationError, PolicyRefusal, StoreError
from dkey.lifecycle.claims import Issuer, WithdrawalClaims
from dkey.lifecycle.commands import Invite, Revoke
from dkey.lifecycle.features import Feature
from dkey.lifecycle.parcel import VehicleReceipt
from dkey.lifecycle.policy import MAX_SHARES
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.withdrawal import sign_withdrawal
from dkey.pairing.owner import PairedVehicle
from dkey.testing import SeededEntropy

from .. import Broken, case

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP, SUB = b"G" * 16, b"S" * 16
NOW_S = 1_790_000_000
ACCOUNT = "friend@example.org"
OFFER = Offer(
    account=ACCOUNT,
    role=Role.ASSOCIATE,
    permission=Permission.ENTRY,
    not_before_s=NOW_S,
    not_after_s=NOW_S + 86_400,
)


class Phones:
    """An owner's phone and others, in one folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.entropy = SeededEntropy(f"phones {seed}")
        self.owner = self.open("owner")
        vehicle = PairedVehicle(
            group_id=GROUP,
            public_key=self.entropy.ephemeral().public,
            resolving_key=Secret(self.entropy.random(16)),
            owner_epoch=1,
            features=frozenset(Feature),
            key_name="owner-1",
        )
        self.owner.add(vehicle, self.owner.new_key())
        self.owner.set_state(GROUP, KeyState.SYNCED)
        self.owner.keys.own(GROUP)
        self.sharer = Sharer(self.owner, self.entropy)

    def open(self, name: str) -> AgentStore:
        return AgentStore.open(
            self.folder / name, entropy=self.entropy, create=True, clock=lambda: NOW_S
        )

    def request(self, name: str, share_id: bytes) -> bytes:
        """Let a phone accept the invitation that somebody forwarded to it; return its request."""
        link = self.sharer.link(self.sharer.find(share_id))
        assert link.envelope is not None
        with self.open(name) as store:
            friend = Friend(store, self.entropy)
            friend.open(link.secret, link.envelope)
            return friend.request(share_id).envelope

    def sign(self, share_id: bytes) -> bytes:
        value = self.sharer.value(self.sharer.find(share_id))
        return self.sharer.sign(share_id, value.fingerprint).envelope

    def revoke(self, share_id: bytes) -> None:
        with self.owner.keys.change() as change:
            actor = change.book(GROUP).account
            change.command(GROUP, Revoke(actor=actor, item=share_id))


@contextmanager
def phones(seed: int) -> Iterator[Phones]:
    with tempfile.TemporaryDirectory() as name:
        made = Phones(Path(name), seed)
        try:
            yield made
        finally:
            made.owner.close()


def told(store: AgentStore, **numbers: int) -> None:
    """Let the vehicle write its receipt."""
    receipt = VehicleReceipt(**{"epoch": 1, **numbers})
    data = store.keys.carried(GROUP).data
    CarriedStore(store, GROUP).save_mailbox(data[:20] + receipt.to_bytes() + data[36:])


@case(
    28,
    "a link that was forwarded gets no second key signed, also when the sharer's phone restarts",
    source="security 5, case 28",
    broken=[
        Broken(
            module="dkey.agent.key_sharing",
            old=(
                "            exchange = self._put(change, exchange, value)\n"
                "        if code is not None:"
            ),
            new="        if code is not None:",
            why="what was redeemed is not committed before the sharer goes on",
        ),
        Broken(
            module="dkey.lifecycle.sharing",
            old="            if given.public_key[1:33] != self.friend[1:33]:",
            new="            if False:",
            why="a second key for an invitation is not noticed",
        ),
    ],
)
def forwarded_link(seed: int) -> None:
    with phones(seed) as world:
        share_id = world.sharer.invite(GROUP, OFFER).share_id
        first, second = (world.request(name, share_id) for name in ("friend", "thief"))
        world.sharer.take(first)
        with world.open("owner") as again:
            sharer = Sharer(again, world.entropy)
            with suppress(PolicyRefusal):
                sharer.take(second)
                raise AssertionError("the thief's key was taken for the same invitation")
            kept = sharer.value(sharer.find(share_id)).friend
        assert kept is not None, "the redeemed invitation was forgotten"


@case(
    28,
    "a sharer who was asked again signs the same bytes, and no second attestation",
    source="security 5, case 28",
    broken=[
        Broken(
            module="dkey.agent.key_sharing",
            old="            if value.answer is not None:\n                return exchange",
            new="            value = replace(value, state=ShareState.REQUESTED, answer=None)",
            why="a share that was signed is signed anew",
        ),
    ],
)
def signed_twice(seed: int) -> None:
    with phones(seed) as world:
        share_id = world.sharer.invite(GROUP, OFFER).share_id
        world.sharer.take(world.request("friend", share_id))
        answers = {world.sign(share_id) for _ in range(3)}
        assert len(answers) == 1, "one share was signed more than once"


@case(
    16,
    "a phone with a newer list than the vehicle has taken forces a standard transaction",
    source="security 5, case 16",
    broken=[
        Broken(
            module="dkey.agent.store",
            old="        if carries_news(mailbox.data):",
            new="        if False:",
            why="a fast transaction passes by the list that the phone carries",
        ),
        Broken(
            module="dkey.agent.key_book",
            old="        self._sign_list(vehicle)\n",
            new="",
            why="a revocation is noted and no list is signed for it",
        ),
    ],
)
def list_not_delivered(seed: int) -> None:
    with phones(seed) as world:
        share_id = world.sharer.invite(GROUP, OFFER).share_id
        told(world.owner)
        world.owner.save_kpersistent(GROUP, SUB, Secret(bytes(32)))
        assert world.owner.credential(GROUP).kpersistent, "the case needs a fast key"
        world.revoke(share_id)
        assert not world.owner.credential(GROUP).kpersistent, "the list was left at home"
        told(world.owner, owner_list=1)
        assert world.owner.credential(GROUP).kpersistent, "it was delivered"


@case(
    15,
    "a vehicle that tells less than before is noticed, and what it had told is not forgotten",
    source="security 4.2",
    broken=[
        Broken(
            module="dkey.agent.key_records",
            old="        lost = rolled_back(VehicleReceipt.parse(known.highest), told)",
            new="        lost = False",
            why="the phone believes every receipt",
        ),
        Broken(
            module="dkey.agent.key_records",
            old="            highest=known.highest if lost else raw,",
            new="            highest=raw,",
            why="the phone forgets what the vehicle told before it was put back",
        ),
    ],
)
def vehicle_put_back(seed: int) -> None:
    with phones(seed) as world:
        told(world.owner, owner_list=3)
        told(world.owner, owner_list=1)
        seen = world.owner.keys.state.last_seen(GROUP)
        assert seen is not None
        assert seen.rolled_back, "nobody noticed that the vehicle was put back"
        assert VehicleReceipt.parse(seen.highest).owner_list == 3, "the memory went back too"
        assert VehicleReceipt.parse(seen.told).owner_list == 1, "the present state is not known"


class _Forger:
    """Speaks as the authority, without its key."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def execute(self, _vehicle: bytes, _command: object) -> object:
        raise AssertionError("nothing waits")

    def keys(self, _vehicle: bytes, _actor: str) -> object:
        return type("Keys", (), {"keys": ()})()

    def withdrawal_list(self, _vehicle: bytes, _actor: str) -> bytes:
        return self._raw

    def bookings(self, _vehicle: bytes, _actor: str) -> tuple[object, ...]:
        return ()


@case(
    16,
    "a list in the authority's name, signed by another, does not take the place of the genuine one",
    source="security 5, cases 15 and 16",
    broken=[
        Broken(
            module="dkey.agent.key_authority",
            old=(
                "        verify_withdrawal(raw, key, issuer=Issuer.AUTHORITY,"
                " vehicle=self._vehicle)\n"
            ),
            new="",
            why="who answers at the authority's address is believed",
        ),
    ],
)
def forged_authority_list(seed: int) -> None:
    with phones(seed) as world:
        forger = world.entropy.ephemeral()
        claims = WithdrawalClaims(
            vehicle=GROUP, epoch=1, issuer=Issuer.AUTHORITY, number=9_000, issued_s=NOW_S
        )
        raw = sign_withdrawal(claims, MemoryVault(forger=forger), "forger")
        genuine = world.entropy.ephemeral().public
        link = KeyLink(url="https://authority.example", token="t", key=genuine.point)
        desk = Desk(world.owner, GROUP, _Forger(raw), world.entropy)  # type: ignore[arg-type]
        desk.link(link)
        with suppress(AuthenticationError):
            desk.sync()
        held = world.owner.keys.book(GROUP).held(Issuer.AUTHORITY)
        assert held is None, "a forged list blocks every genuine one"


@case(
    18,
    "a process that looked at the keys before others shared does not give a fourth key away",
    source="security 5, case 18; requirements G1",
    broken=[
        Broken(
            module="dkey.agent.key_book",
            old="        return Change(self._store, self.state, self._seq, self.now_s)",
            new="        return Change(self._store, self._state, self._seq, self.now_s)",
            why="a change rests on what this process knew, not on what was committed",
        ),
    ],
)
def stale_process(seed: int) -> None:
    with phones(seed) as world, world.open("owner") as other:
        for number in range(MAX_SHARES):
            world.sharer.invite(GROUP, replace(OFFER, account=f"friend{number}@example.org"))
        fourth = Invite(
            actor=DEFAULT_ACCOUNT,
            share_id=world.entropy.random(16),
            account=ACCOUNT,
            role=Role.ASSOCIATE,
            permission=Permission.ENTRY,
            not_before_s=NOW_S,
            not_after_s=NOW_S + 86_400,
        )
        with suppress(PolicyRefusal, StoreError):
            with other.keys.change() as change:
                change.command(GROUP, fourth)
            raise AssertionError("a fourth key was given away")
