"""Accounts: who may ask, the pseudonym that the rest of the file knows, what was agreed to.

These accounts are a prototype's. A bearer token is shown once, when the account is made, and only
its hash is kept. Nobody proves who they are to get one: this is not an identity service.
"""

from __future__ import annotations

import hmac
import re
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from dkey.authority.notifications import Reach
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.lifecycle.account import account_form

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret
    from dkey.lifecycle.durable import DurableFile

__all__ = ["ACCOUNT", "ENROLMENT", "Accounts", "Purpose", "UnknownError", "new_token", "token_hash"]

ACCOUNT: Final = r"[a-z0-9._+-]{1,64}@[a-z0-9.-]{1,128}"
"""Form of an account id (requirements S5)."""
_ACCOUNT: Final = re.compile(ACCOUNT)
PERSON_DOMAIN: Final = "person.invalid"
"""Domain of pseudonyms: no account can be registered in it (RFC 2606)."""


class Purpose(StrEnum):
    """What a person agrees to (requirements S66, S71, S113, S148)."""

    TERMS = "TERMS"
    PERSONAL_DATA = "PERSONAL_DATA"
    LOCATION = "LOCATION"
    THIRD_PARTY = "THIRD_PARTY"


ENROLMENT: Final = (Purpose.TERMS, Purpose.PERSONAL_DATA)
"""Consents that must be recorded before a key is enrolled (requirements S66, S71)."""


class UnknownError(LocalFault):
    """There is no such account, vehicle, dispute or share here."""


def new_token(entropy: Entropy) -> str:
    """Return a fresh bearer token: 32 random bytes in hex."""
    return entropy.random(32).hex()


def token_hash(token: str) -> bytes:
    """Return what is kept of a token, 32 bytes. Tokens are random, so one hash is enough."""
    return sha256(b"dkey authority token" + token.encode()).digest()


class Accounts:
    """The accounts in the authority's file; everything that writes needs an open transaction."""

    def __init__(self, file: DurableFile) -> None:
        self._file = file

    def register(
        self,
        account: str,
        *,
        token: Secret,
        entropy: Entropy,
        now_s: int,
        sms: str | None,
        app: bool,
        offers: bool,
    ) -> str:
        """Make an account and return its person's new pseudonym.

        A closed or erased account never comes back: its owner registers another one, and no old key
        follows (requirements S72).

        Raises:
            LocalFault: Not the form of an e-mail address.
            PolicyRefusal: ALREADY_LINKED, the account is taken.
        """
        account = account_form(account)
        if not _ACCOUNT.fullmatch(account) or account.endswith(f"@{PERSON_DOMAIN}"):
            raise LocalFault(
                f"{account!r} is no account id", hint="give a lower-case e-mail address"
            )
        if self._file.rows("SELECT 1 FROM account WHERE account = ?", account):
            raise PolicyRefusal(
                RefusalCode.ALREADY_LINKED,
                f"the account {account} is taken",
                hint="use its token, or register another account",
            )
        person = f"{entropy.random(8).hex()}@{PERSON_DOMAIN}"
        hashed = token_hash(token.reveal().decode())
        self._file.put(
            "account", person, account, hashed, sms, int(app), int(offers), "OPEN", now_s
        )
        return person

    def person(self, account: str) -> str:
        """Return the pseudonym of an open account.

        Raises:
            UnknownError: There is none.
        """
        rows = self._file.rows(
            "SELECT person FROM account WHERE account = ? AND state = 'OPEN'", account_form(account)
        )
        if not rows:
            raise UnknownError(f"there is no account {account}", hint="register it first")
        return str(rows[0][0])

    def account(self, person: str) -> str:
        """Return the account behind a pseudonym, or the pseudonym itself after an erasure."""
        rows = self._file.rows("SELECT account FROM account WHERE person = ?", person)
        return str(rows[0][0]) if rows and rows[0][0] else person

    def authenticates(self, account: str, token: str) -> bool:
        """Return whether ``token`` is that of an open account, in constant time."""
        rows = self._file.rows(
            "SELECT token_hash FROM account WHERE account = ? AND state = 'OPEN'",
            account_form(account),
        )
        kept = bytes(rows[0][0]) if rows else bytes(32)
        return hmac.compare_digest(kept, token_hash(token)) and bool(rows)

    def reach(self, person: str) -> Reach:
        """Return how a person can be reached; a stranger cannot."""
        rows = self._file.rows(
            "SELECT account, sms, app, offers FROM account WHERE person = ?", person
        )
        if not rows:
            return Reach(account=None, sms=None, app=False, offers=False)
        account, sms, app, offers = rows[0]
        return Reach(account=account, sms=sms, app=bool(app), offers=bool(offers))

    def set_offers(self, person: str, *, wanted: bool) -> None:
        """Switch advertisements on or off; security notices have no switch (requirements S134)."""
        row = self._row(person)
        self._file.update("account", *row[:5], int(wanted), *row[6:])

    def close(self, person: str) -> None:
        """End an account: its token opens nothing any more."""
        row = self._row(person)
        self._file.update("account", *row[:6], "CLOSED", row[7])

    def erase(self, person: str) -> None:
        """Forget who a person is, for good; the pseudonym stays."""
        row = self._row(person)
        self._file.update("account", person, None, None, None, 0, 0, "ERASED", row[7])
        for consent in self._consents(person):
            self._file.delete("consent", "number = ?", consent[0])

    def consent(
        self, person: str, purpose: Purpose, *, version: str, channel: str, now_s: int
    ) -> None:
        """Record that a person agreed: who, to which version, on which channel, when (S66)."""
        number = self._file.rows("SELECT coalesce(max(number), 0) + 1 FROM consent")[0][0]
        self._file.put(
            "consent", number, person, purpose.value, version[:64], channel[:64], now_s, None
        )

    def withdraw(self, person: str, purpose: Purpose, now_s: int) -> None:
        """Record that a person does not agree any more (requirements S148)."""
        for row in self._consents(person):
            if row[2] == purpose.value and row[6] is None:
                self._file.update("consent", *row[:6], now_s)

    def agreed(self, person: str) -> frozenset[Purpose]:
        """Return what a person agrees to now."""
        return frozenset(Purpose(row[2]) for row in self._consents(person) if row[6] is None)

    def check_consents(self, person: str, needed: Iterable[Purpose] = ENROLMENT) -> None:
        """Check that consents are recorded.

        Raises:
            PolicyRefusal: CONSENT_MISSING, with the missing ones.
        """
        missing = {*needed} - self.agreed(person)
        if missing:
            raise PolicyRefusal(
                RefusalCode.CONSENT_MISSING,
                f"not agreed to: {', '.join(sorted(missing))}",
                hint="record the consent, then ask again",
            )

    def consents(self, person: str) -> list[tuple[Purpose, str, str, int, int | None]]:
        """Return purpose, version, channel, time and end of every consent, for an export."""
        return [(Purpose(row[2]), *row[3:]) for row in self._consents(person)]

    def _consents(self, person: str) -> list[tuple[int, str, str, str, str, int, int | None]]:
        rows = self._file.rows(
            "SELECT number, person, purpose, version, channel, given_s, withdrawn_s FROM consent"
            " WHERE person = ? ORDER BY number",
            person,
        )
        return [*rows]

    def _row(self, person: str) -> tuple[str, str, bytes, str, int, int, str, int]:
        rows = self._file.rows(
            "SELECT person, account, token_hash, sms, app, offers, state, created_s FROM account"
            " WHERE person = ?",
            person,
        )
        if not rows:
            raise UnknownError("there is no such person", hint="register an account first")
        return rows[0]
