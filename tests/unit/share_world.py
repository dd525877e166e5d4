"""A sharer, a friend and a stranger with a mailbox between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from statement_world import (
    BEGIN_S,
    END_S,
    EPOCH,
    ISSUED_S,
    KEYS,
    VEHICLE,
    DeterministicVault,
    attested,
    public,
    signed_list,
    user_claims,
)

from dkey.crypto.secret import Secret
from dkey.lifecycle.accepting import FriendExchange
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.features import Feature
from dkey.lifecycle.invitation import Invitation
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.share_messages import VehicleAccess
from dkey.lifecycle.sharing import SharerExchange, Signing
from dkey.testing import SeededEntropy

NOW_S = ISSUED_S
EXPIRES_S = ISSUED_S + 48 * 3600
ACCOUNT = "friend@example.org"
PIN = Secret(b"271828")


def offer(sharer: str = "owner", **changes: Any) -> Invitation:
    invitation = Invitation(
        share_id=bytes(range(16)),
        vehicle=VEHICLE,
        vehicle_name="Blue estate",
        account=ACCOUNT,
        role=Role.ASSOCIATE,
        permission=Permission.ENTRY,
        not_before_s=BEGIN_S,
        not_after_s=END_S,
        expires_s=EXPIRES_S,
        needs_pin=False,
        sharer=public(sharer),
        nonce=bytes(range(32, 48)),
    )
    return replace(invitation, **changes)


def access(**changes: Any) -> VehicleAccess:
    found = VehicleAccess(
        vehicle=VEHICLE,
        reader_key=public("authority"),
        resolving_key=Secret(bytes(range(64, 80))),
        features=frozenset({Feature.TOUCH_LOCK, Feature.REMOTE}),
    )
    return replace(found, **changes)


class Share:
    """One exchange, with both vaults; the mailbox is what tests pass on."""

    def __init__(self, seed: object = 1, *, sharer: str = "owner", **changes: Any) -> None:
        self.entropy = SeededEntropy(repr(seed))
        self.pin = PIN if changes.get("needs_pin") else None
        self.key = sharer
        self.sharer_vault = DeterministicVault(**{sharer: KEYS[sharer]})
        self.friend_vault = DeterministicVault(friend=KEYS["friend"], stranger=KEYS["stranger"])
        self.sharer = SharerExchange.invite(
            offer(sharer, **changes),
            pin=self.pin,
            vault=self.sharer_vault,
            key=sharer,
            entropy=self.entropy,
        )
        self.invitation = self.sharer.envelope(self.entropy)
        self.friend = self.opened()

    def opened(self, now_s: int = NOW_S) -> FriendExchange:
        """Return a fresh friend's end, as whoever has the link can make one."""
        return FriendExchange.open(self.sharer.secret, self.invitation, now_s=now_s)

    def ask(
        self,
        *,
        key: str = "friend",
        pin: Secret | None = None,
        account: str = ACCOUNT,
        now_s: int = NOW_S,
    ) -> bytes:
        """Let the friend ask; return the envelope."""
        end = self.friend if key == "friend" else self.opened()
        end = replace(end, invitation=replace(end.invitation, account=account))
        after, sealed = end.request(
            vault=self.friend_vault,
            key=key,
            account=account,
            pin=pin or self.pin,
            now_s=now_s,
            entropy=self.entropy,
        )
        if key == "friend":
            self.friend = replace(after, invitation=self.sharer.invitation)
        return sealed

    def take(self, data: bytes, now_s: int = NOW_S):
        """Let the sharer take a request, keep what follows, and return the refusal."""
        self.sharer, refused = self.sharer.receive_request(
            data, vault=self.sharer_vault, key=self.key, now_s=now_s
        )
        return refused

    def confirm(self, compared: str | None = None, now_s: int = NOW_S) -> None:
        seen = compared or self.friend.fingerprint(self.friend_vault)
        self.sharer = self.sharer.confirm(seen, now_s=now_s)

    def signing(self, **changes: Any) -> Signing:
        chain = () if self.key == "owner" else (attested(user_claims()),)
        signing = Signing(
            slot=2,
            epoch=EPOCH,
            list_number=3,
            issued_s=NOW_S,
            access=access(),
            root=public("owner"),
            chain=chain,
            lists={Issuer.OWNER: signed_list()},
        )
        return replace(signing, **changes)

    def sign(self, now_s: int = NOW_S, **changes: Any) -> bytes:
        self.sharer = self.sharer.sign(
            self.signing(**changes),
            vault=self.sharer_vault,
            key=self.key,
            now_s=now_s,
            entropy=self.entropy,
        )
        assert self.sharer.answer is not None
        return self.sharer.answer

    def receive(self, answer: bytes, now_s: int = NOW_S):
        """Let the friend read the answer; return the key and the receipt."""
        self.friend, received, receipt = self.friend.receive_answer(
            answer, vault=self.friend_vault, now_s=now_s, entropy=self.entropy
        )
        return received, receipt

    def confirmed(self) -> Share:
        assert self.take(self.ask()) is None
        self.confirm()
        return self

    def signed(self) -> bytes:
        return self.confirmed().sign()
