"""Attacks on the authority: other people's tokens and data, lost revocations, time put back."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dkey.authority.accounts import ENROLMENT
from dkey.authority.http_access import Access, UnauthenticatedError
from dkey.authority.service import Authority
from dkey.crypto.p256 import PrivateKey
from dkey.errors import PolicyRefusal
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.commands import (
    AUTHORITY,
    VEHICLE,
    Accept,
    Found,
    Invite,
    Party,
    Resume,
    Revoke,
    Suspend,
)
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.withdrawal import verify_withdrawal
from dkey.testing import FakeClock, SeededEntropy

from .. import Broken, case

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

START = 1_800_000_000
CAR = bytes(15) + b"\1"
OTHER_CAR = bytes(15) + b"\2"
OWNER, FRIEND, THIRD = "owner@example.org", "friend@example.org", "third@example.org"
POINT = PrivateKey.from_scalar(bytes(31) + b"\7").public.point


class Office:
    """An authority with an owner and two friends of one vehicle; it can be started anew."""

    def __init__(self, seed: int) -> None:
        self.entropy = SeededEntropy(f"office {seed}")
        self.clock = FakeClock(START)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "authority"
        self.authority = self.open()
        self.tokens = {account: self.join(account) for account in (OWNER, FRIEND, THIRD)}
        self.tokens[CAR.hex()] = self.register(CAR, "KNA12345678900001")
        self.tokens[OTHER_CAR.hex()] = self.register(OTHER_CAR, "KNA12345678900002")
        owner = Party(account=OWNER)
        found = Found(actor=OWNER, owner=owner, key_x=self.entropy.random(32))
        self.authority.execute(CAR, found)
        self.items = {account: self.share(account) for account in (FRIEND, THIRD)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.authority.close()
        self.folder.cleanup()

    def open(self) -> Authority:
        return Authority.open(self.path, create=True, entropy=self.entropy, clock=self.clock)

    def restart(self) -> None:
        """Start anew from what is on the disk, as after a power cut."""
        cut = self.path.with_name(f"{self.path.name}+")
        shutil.copytree(self.path, cut)
        self.authority.close()
        self.path = cut
        self.authority = self.open()

    def join(self, account: str) -> str:
        token = self.authority.register_account(account)
        for purpose in ENROLMENT:
            self.authority.record_consent(account, account, purpose, version="1", channel="APP")
        return token

    def register(self, vehicle: bytes, vin: str) -> str:
        return self.authority.register_vehicle(
            vehicle, vin=vin, market="KR", profile="DK1", public_key=POINT
        )

    def share(self, account: str) -> bytes:
        item = self.entropy.random(16)
        self.authority.execute(
            CAR,
            Invite(
                actor=OWNER,
                share_id=item,
                account=account,
                role=Role.ASSOCIATE,
                permission=Permission.ENTRY,
                not_before_s=START,
                not_after_s=START + 10**8,
            ),
        )
        accept = Accept(actor=account, share_id=item, key_x=self.entropy.random(32))
        self.authority.execute(CAR, accept)
        return item

    def state(self, account: str) -> str:
        keys = self.authority.keys(CAR, AUTHORITY).keys
        return next(key.state for key in keys if key.item == self.items[account].hex())

    def stored(self) -> bytes:
        """Return every byte of the state folder's store, as it is after an orderly end."""
        self.restart()
        self.authority.close()
        data = b"".join(each.read_bytes() for each in self.path.glob("authority.db*"))
        self.authority = self.open()
        return data


def speaks(access: Access, actor: str, token: str, vehicle: bytes) -> bool:
    try:
        access.check(actor, f"Bearer {token}", vehicle)
    except UnauthenticatedError:
        return False
    return True


@case(
    24,
    "at the authority a token speaks for its own account or vehicle and for nobody else",
    source="requirements S48",
    broken=[
        Broken(
            module="dkey.authority.http_access",
            old="if not (token and known):",
            new="if not token:",
            why="any token is taken",
        ),
        Broken(
            module="dkey.authority.accounts",
            old="return hmac.compare_digest(kept, token_hash(token)) and bool(rows)",
            new="return bool(rows)",
            why="the token of an account is not compared",
        ),
        Broken(
            module="dkey.authority.vehicles",
            old="return hmac.compare_digest(kept, token_hash(token))",
            new="return len(kept) == len(token_hash(token))",
            why="the token of a vehicle is not compared",
        ),
    ],
)
def another_token(seed: int) -> None:
    with Office(seed) as office:
        access = Access(office.authority)
        names = {OWNER: OWNER, FRIEND: FRIEND, THIRD: THIRD, CAR.hex(): VEHICLE}
        for holder, actor in names.items():
            for whose, token in office.tokens.items():
                assert speaks(access, actor, token, CAR) == (whose == holder), (actor, whose)
        for actor in (OWNER, VEHICLE, AUTHORITY):
            for token in ("", "0" * 64):
                assert not speaks(access, actor, token, CAR)


@case(
    24,
    "the token of a closed account opens nothing any more",
    source="requirements S57, S72",
    broken=[
        Broken(
            module="dkey.authority.accounts",
            old='self._file.update("account", *row[:6], "CLOSED", row[7])',
            new='self._file.update("account", *row[:6], "OPEN", row[7])',
            why="an account is not marked as closed",
        )
    ],
)
def closed_account(seed: int) -> None:
    with Office(seed) as office:
        office.authority.close_account(FRIEND, FRIEND)
        access = Access(office.authority)
        assert not speaks(access, FRIEND, office.tokens[FRIEND], CAR)


@case(
    19,
    "a revocation that the authority answered is there after a restart",
    source="requirements S54; security 5, case 19",
    broken=[
        Broken(
            module="dkey.authority.rings",
            old="return self._stepped(ring, effects, self._ledger.append(_COMMAND, body))",
            new="return self._stepped(ring, effects, len(body))",
            why="commands are not written to the ledger",
        ),
    ],
)
def restart_after_revocation(seed: int) -> None:
    with Office(seed) as office:
        office.authority.execute(CAR, Revoke(actor=OWNER, item=office.items[FRIEND]))
        office.restart()
        keys = {key.item: key.state for key in office.authority.keys(CAR, AUTHORITY).keys}
        assert keys.get(office.items[FRIEND].hex()) == "REVOKED"


@case(
    19,
    "a revocation that waited for the end of an outage is carried out, also over a restart",
    source="requirements S31",
    broken=[
        Broken(
            module="dkey.authority.core",
            old="        self._drain()\n        return [waiting",
            new="        return [waiting",
            why="the queue is forgotten when the outage ends",
        )
    ],
)
def waiting_revocation(seed: int) -> None:
    with Office(seed) as office:
        office.authority.begin_outage("a disk")
        office.authority.execute(CAR, Revoke(actor=OWNER, item=office.items[FRIEND]))
        office.restart()
        office.authority.end_outage("another disk")
        assert office.state(FRIEND) == "REVOKED"


@case(
    16,
    "the newest withdrawal list has what was withdrawn, and no number says two things",
    source="requirements C18; security 5, case 16",
    broken=[
        Broken(
            module="dkey.authority.rings",
            old="if kept == content:",
            new="if kept:",
            why="a list is signed once and never again",
        ),
        Broken(
            module="dkey.authority.rings",
            old="number = known + 1 if epoch == ring.epoch else 1",
            new="number = known",
            why="the number does not rise",
        ),
    ],
)
def stale_list(seed: int) -> None:
    with Office(seed) as office:
        said: dict[int, object] = {}
        item = office.items[FRIEND]
        for command in (
            Suspend(actor=OWNER, item=item),
            Resume(actor=OWNER, item=item),
            Revoke(actor=OWNER, item=item),
        ):
            office.clock.advance(10)
            office.authority.execute(CAR, command)
            data = office.authority.withdrawal_list(CAR)
            key = office.authority.public_key
            claims = verify_withdrawal(data, key, issuer=Issuer.AUTHORITY, vehicle=CAR)
            content = (claims.revoked, claims.suspended)
            assert said.setdefault(claims.number, content) == content
        assert content == ((item,), ())


@case(
    20,
    "the authority's time does not go back with its clock",
    source="security 5, case 20",
    broken=[
        Broken(
            module="dkey.authority.core",
            old="return max(int(self._clock()), recorded)",
            new="return int(self._clock()) if recorded else recorded",
            why="the clock is believed",
        )
    ],
)
def clock_put_back(seed: int) -> None:
    with Office(seed) as office:
        office.clock.advance(10**6)
        office.authority.execute(CAR, Suspend(actor=OWNER, item=office.items[FRIEND]))
        office.clock.now_s = START
        office.restart()
        office.authority.execute(CAR, Resume(actor=OWNER, item=office.items[FRIEND]))
        times = [entry.at_s for entry in office.authority.audit_log()]
        assert times == sorted(times)


@case(
    35,
    "the authority's file has no token, and names an account in one place only",
    source="requirements S142; security 5, case 35",
    broken=[
        Broken(
            module="dkey.authority.accounts",
            old="hashed = token_hash(token.reveal().decode())",
            new="hashed = token.reveal()[:32]",
            why="a part of the token itself is kept",
        ),
        Broken(
            module="dkey.authority.accounts",
            old='person = f"{entropy.random(8).hex()}@{PERSON_DOMAIN}"',
            new="person = account",
            why="the account is its own pseudonym",
        ),
        Broken(
            module="dkey.authority.service",
            old="self._accounts.erase(person)",
            new="self._accounts.close(person)",
            why="an erasure keeps the account",
        ),
    ],
)
def stored_names(seed: int) -> None:
    with Office(seed) as office:
        office.authority.erase(FRIEND, FRIEND)
        rows = " ".join(
            str(office.authority._file.rows(f"SELECT * FROM {table}"))
            for table in ("account", "audit", "notification", "consent", "waiting")
        )
        assert FRIEND not in rows
        assert rows.count(OWNER) == 1
        data = office.stored()
        for token in office.tokens.values():
            assert token[:32].encode() not in data


@case(
    35,
    "an associate learns no other person's account from keys, effects or an export",
    source="requirements S140, S142, C29",
    broken=[
        Broken(
            module="dkey.authority.service",
            old="shown = everything if actor in NAMED else ring.keys(self._person(actor))",
            new="shown = everything",
            why="everybody sees every key",
        ),
        Broken(
            module="dkey.authority.service",
            old="return account if other == person else None",
            new="return self._accounts.account(other)",
            why="an export names the others",
        ),
    ],
)
def others_data(seed: int) -> None:
    with Office(seed) as office:
        office.authority.execute(CAR, Suspend(actor=OWNER, item=office.items[FRIEND]))
        seen = (office.authority.keys(CAR, FRIEND), office.authority.export(FRIEND))
        text = str(seen)
        assert FRIEND in text
        assert OWNER not in text
        assert THIRD not in text


@case(
    35,
    "a person under dispute is not erased, and a consent that is withdrawn leaves no entry",
    source="requirements S145, G24",
    broken=[
        Broken(
            module="dkey.authority.service",
            old="if self._audit.disputed(person):",
            new="if self._audit.disputed(account):",
            why="disputes are looked for under the wrong name",
        ),
        Broken(
            module="dkey.authority.audit",
            old="AND NOT {_DISPUTED}",
            new="AND 1 /* {_DISPUTED} */",
            why="a dispute holds no entry",
        ),
    ],
)
def dispute_holds(seed: int) -> None:
    with Office(seed) as office:
        authority = office.authority
        authority.open_dispute("a bill", account=FRIEND)
        before = authority.export(FRIEND)["events"]
        office.clock.advance(200 * 86_400)
        authority.tick()
        assert authority.export(FRIEND)["events"] == before
        try:
            authority.erase(FRIEND, FRIEND)
        except PolicyRefusal:
            return
        raise AssertionError("a person under dispute was erased")
