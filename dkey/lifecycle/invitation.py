"""Invitations to a key, and the link, QR or file that hands one over (specs/lifecycle.md §6.1).

An invitation is signed by the sharer and sealed under a fresh secret. Whoever has the secret can
read it; that alone is worth nothing, since the sharer confirms the key that comes back, and only
that key's holder can open the answer.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dkey.codec import cbor
from dkey.crypto.p256 import PublicKey
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, WireError
from dkey.lifecycle.account import account_form
from dkey.lifecycle.envelope import MAX_ENVELOPE, SECRET_SIZE
from dkey.lifecycle.policy import MAX_ACCOUNT
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.statement import (
    FLAG,
    POINT,
    TIME,
    Field,
    Statement,
    choice,
    octets,
    optional,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.crypto.vault import Vault

__all__ = [
    "ACCOUNT",
    "INVITATION",
    "Invitation",
    "ShareLink",
    "read_invitation",
    "sign_invitation",
]

CLAUSE: Final = "specs/lifecycle.md §6.1"
_TEXT: Final = text(3, MAX_ACCOUNT)


def _account(value: Any) -> str:
    loaded: str = _TEXT.load(value)
    if loaded != account_form(loaded):
        raise ValueError("an account that is not in its one form")
    return loaded


ACCOUNT: Final = Field(_account)
"""An account id, in the form of an e-mail address (requirements S42)."""
_FILE: Final = "share-file"
_VERSION: Final = 1
_URL: Final = re.compile(
    r"(https://[A-Za-z0-9.:\[\]-]+|http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?)"
    r"(/[A-Za-z0-9._~/-]*(\?[A-Za-z0-9._~=&-]*)?)?"
)
_QR: Final = re.compile(r"dkey:share\?v=1&m=([A-Za-z0-9_-]+)#([A-Za-z0-9_-]{43})")
_LINK: Final = re.compile(r"([^#\s]+)#([A-Za-z0-9_-]{43})")


def _check(values: Mapping[str, Any]) -> None:
    if values["not_before_s"] > values["not_after_s"]:
        raise ValueError("the time of its key ends before it begins")
    if values["mailbox"] is not None and not _URL.fullmatch(values["mailbox"]):
        raise ValueError("its mailbox is no https URL")


INVITATION: Final = Statement(
    name="share-invitation",
    clause=CLAUSE,
    limit=1024,
    fields=MappingProxyType(
        {
            "share_id": octets(16),
            "vehicle": octets(16),
            "vehicle_name": text(1, 32),
            "account": ACCOUNT,
            "role": choice(Role.ACTUAL_USER, Role.ASSOCIATE, Role.PROVIDER),
            "permission": choice(Permission.ENTRY, Permission.ENTRY_AND_START),
            "not_before_s": TIME,
            "not_after_s": TIME,
            "expires_s": TIME,
            "needs_pin": FLAG,
            "sharer": POINT,
            "nonce": octets(16),
            "mailbox": optional(text(8, 256)),
        }
    ),
    check=_check,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a sharer offers.

    Attributes:
        share_id: 16 bytes, never used before.
        vehicle: Vehicle identifier, 16 bytes.
        vehicle_name: What the friend is shown, 1..32 bytes.
        account: Whom it is for; no other account may accept it (requirements S42).
        role: What the friend becomes.
        permission: What the key may do.
        not_before_s: First second of the key, since 1970.
        not_after_s: Last second of the key.
        expires_s: Last second in which the invitation can be accepted, confirmed and signed.
        needs_pin: Whether a PIN is needed that the friend got on another way.
        sharer: The sharer's public key, 65 bytes.
        nonce: 16 bytes, fresh; the friend signs them.
        mailbox: Where the exchange is stored and forwarded; None when the files go by hand.
    """

    share_id: bytes
    vehicle: bytes
    vehicle_name: str
    account: str
    role: Role
    permission: Permission
    not_before_s: int
    not_after_s: int
    expires_s: int
    needs_pin: bool
    sharer: bytes
    nonce: bytes
    mailbox: str | None = None


def sign_invitation(invitation: Invitation, vault: Vault, key: str) -> bytes:
    """Return the invitation, signed with the sharer's key.

    Raises:
        LocalFault: It names another sharer than the vault's key, or a value has no form in it.
    """
    if invitation.sharer != vault.public(key).point:
        raise LocalFault("the invitation names another sharer than the vault's key", clause=CLAUSE)
    values = {name: getattr(invitation, name) for name in INVITATION.fields}
    return INVITATION.sign(values, vault, key)


def read_invitation(data: bytes) -> Invitation:
    """Read one invitation and check that the sharer whom it names signed it.

    Raises:
        WireError: Not exactly one invitation in its one form.
        AuthenticationError: Somebody else signed it.
    """
    values, signed = INVITATION.read(data)
    signed.verify(PublicKey.parse(values["sharer"]))
    return Invitation(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareLink:
    """What the sharer hands to the friend, in one of three forms. All of them are secret.

    Attributes:
        secret: Opens the envelopes of this exchange, 32 bytes.
        url: The mailbox; None when the invitation is here.
        envelope: The sealed invitation; None when it lies in the mailbox.
    """

    secret: Secret
    url: str | None = None
    envelope: bytes | None = None

    def to_text(self) -> str:
        """Return ``URL#secret`` or ``dkey:share?v=1&m=envelope#secret``, for a message or a QR.

        The secret stands in the fragment, which no browser sends to a server.

        Raises:
            LocalFault: There is neither a mailbox nor an invitation.
        """
        fragment = _base64(self.secret.reveal())
        if self.url is not None and _URL.fullmatch(self.url):
            return f"{self.url}#{fragment}"
        if self.envelope is None:
            raise LocalFault("a link needs a mailbox or an invitation", clause=CLAUSE)
        return f"dkey:share?v=1&m={_base64(self.envelope)}#{fragment}"

    def to_file(self) -> bytes:
        """Return the content of an invitation file.

        Raises:
            LocalFault: The invitation is not here.
        """
        if self.envelope is None:
            raise LocalFault("a file needs the invitation itself", clause=CLAUSE)
        return cbor.encode({1: _FILE, 2: _VERSION, 3: self.secret.reveal(), 4: self.envelope})

    @classmethod
    def parse_text(cls, content: str) -> ShareLink:
        """Read a link or the content of a QR.

        Raises:
            LocalFault: Neither; the content is not repeated in the error.
        """
        content = content.strip()
        if len(content) <= 2 * MAX_ENVELOPE:
            if found := _QR.fullmatch(content):
                envelope, secret = _unbase64(found[1]), _unbase64(found[2])
                if envelope is not None and secret is not None:
                    return cls(secret=Secret(secret), envelope=envelope)
            elif (found := _LINK.fullmatch(content)) and _URL.fullmatch(found[1]):
                secret = _unbase64(found[2])
                if secret is not None:
                    return cls(secret=Secret(secret), url=found[1])
        raise LocalFault(
            "this is no invitation",
            clause=CLAUSE,
            hint="open the whole link that the sharer sent, with what follows the #",
        )

    @classmethod
    def parse_file(cls, data: bytes) -> ShareLink:
        """Read the content of an invitation file.

        Raises:
            WireError: Not exactly one invitation file.
        """
        found = cbor.decode(data)
        secret = found.get(3) if isinstance(found, dict) else None
        envelope = found.get(4) if isinstance(found, dict) else None
        if not (isinstance(secret, bytes) and isinstance(envelope, bytes)):
            raise WireError("this is no invitation file", clause=CLAUSE)
        link = cls(secret=Secret(secret), envelope=envelope)
        if len(secret) != SECRET_SIZE or link.to_file() != data:
            raise WireError("this is no invitation file", clause=CLAUSE)
        return link


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _unbase64(content: str) -> bytes | None:
    """Return the bytes, or None if another text stands for the same bytes."""
    try:
        data = urlsafe_b64decode(content + "=" * (-len(content) % 4))
    except ValueError:
        return None
    return data if _base64(data) == content else None
