"""The writes of the vehicle's store: enrol, change state, keep persistent keys, log."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dkey.crypto.p256 import PublicKey
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.policy import CODE_MAX_TRIES
from dkey.lifecycle.roles import CredentialState, Role
from firmware_mock.store_schema import (
    COLUMNS,
    CREDENTIAL_COLUMNS,
    credential_of,
    credential_row,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dkey.control.touch import Position
    from dkey.lifecycle.durable import DurableFile, Value
    from firmware_mock.records import Credential

__all__ = ["Transaction", "find_credential"]

_SLOTS: Final = frozenset({1, 2})
_HOUR_S: Final = 3600.0
_PERSONAL: Final = (
    *("pairing_code", "first_use", "kpersistent", "card_slot", "share_slot", "share"),
    *("standard_use", "feature_set", "peer_seen", "credential"),
)
"""Tables of which a factory reset leaves nothing, those that refer to others first."""


def find_credential(file: DurableFile, where: str, value: Value) -> Credential | None:
    """Return the credential that meets a condition on ``c``, or None."""
    found = file.rows(f"SELECT {CREDENTIAL_COLUMNS} FROM credential c WHERE {where}", value)  # noqa: S608 - constant names
    return credential_of(found[0]) if found else None


class Transaction:
    """The writes of one commit; made by :meth:`CredentialStore.transaction`.

    Each method does all it says or raises and writes nothing. Reads see what was written.
    """

    def __init__(self, file: DurableFile) -> None:
        self._file = file
        self._rows = file.rows
        self._ended = False

    def add(self, credential: Credential, *, replaces: str | None = None) -> None:
        """Enrol a credential; a card takes a free place, or the place of the card it replaces.

        The replaced card is out of use for good, with its persistent keys.

        Raises:
            PolicyRefusal: CARD_LIMIT, no place is free or the vehicle had its initial card;
                KEY_UNKNOWN or CARD_BLOCKED, the card to replace is unknown or out of use.
            LocalFault: The id or the key is enrolled already, a value is out of its range, or the
                credential is not a new one.
        """
        self._check_new(credential, replaces)
        old = self._replaced(replaces)
        slot = self._place(old) if credential.role is Role.CARD else None
        try:
            self._insert("credential", credential_row(credential))
        except sqlite3.IntegrityError as exc:
            if "credential.provenance" in str(exc):
                raise PolicyRefusal(
                    RefusalCode.CARD_LIMIT,
                    "the vehicle had its initial card; further cards are purchased ones",
                    hint="pair the card as a purchased one",
                ) from exc
            raise LocalFault(
                f"the credential cannot be enrolled: {exc}",
                hint="look it up by its key before enrolling it",
            ) from exc
        if old is not None:
            self._retire(
                replace(old, state=CredentialState.REPLACED, replaced_by=credential.credential_id)
            )
        if slot is not None:
            self._insert("card_slot", (slot, credential.credential_id))
        if credential.first_use:
            self._insert("first_use", (credential.credential_id,))

    def set_state(self, credential_id: str, state: CredentialState) -> None:
        """Suspend, resume or revoke a credential; to revoke frees a card's place.

        Raises:
            PolicyRefusal: KEY_REVOKED or CARD_BLOCKED, it is out of use for good.
            LocalFault: It is not enrolled, or ``state`` is REPLACED.
        """
        old = self._known(credential_id)
        if state is CredentialState.REPLACED:
            raise LocalFault("a card is replaced by adding the other one")
        if old.state is state:
            return
        if old.state is CredentialState.REVOKED:
            raise PolicyRefusal(RefusalCode.KEY_REVOKED, "the credential is revoked for good")
        if old.state is CredentialState.REPLACED:
            raise PolicyRefusal(RefusalCode.CARD_BLOCKED, "the card was replaced for good")
        if state is CredentialState.REVOKED:
            self._retire(replace(old, state=state))
        else:
            self._update(replace(old, state=state))

    def put_kpersistent(self, credential_id: str, sub_id: bytes, sealed: bytes) -> None:
        """Keep the persistent key of a credential at a reader, sealed by the caller.

        It takes the place of an earlier one and counts as used now. As it comes from a standard
        transaction, a credential that waited for its first one waits no more.

        Raises:
            PolicyRefusal: KEY_REVOKED or CARD_BLOCKED, the credential is out of use for good.
            LocalFault: The credential or the reader is unknown, or ``sealed`` is empty.
        """
        owner = self._known(credential_id)
        if owner.state is CredentialState.REVOKED:
            raise PolicyRefusal(RefusalCode.KEY_REVOKED, "the credential is revoked for good")
        if owner.state is CredentialState.REPLACED:
            raise PolicyRefusal(RefusalCode.CARD_BLOCKED, "the card was replaced for good")
        if not self._rows("SELECT 1 FROM reader WHERE sub_id = ?", sub_id):
            raise LocalFault("this vehicle has no reader with this sub-identifier")
        if not sealed:
            raise LocalFault("a sealed key is not empty")
        rows = self._rows(
            "SELECT coalesce(max(used_seq), 0) + 1 FROM kpersistent WHERE sub_id = ?", sub_id
        )
        self._insert(
            "kpersistent", (sub_id, credential_id, bytes(sealed), rows[0][0]), or_replace=True
        )
        self._delete("first_use", "credential_id = ?", credential_id)

    def mark_used(self, credential_id: str, sub_id: bytes) -> None:
        """Make this credential's persistent key the first to be tried at this reader.

        Raises:
            LocalFault: It has none there.
        """
        rows = self._rows(
            "SELECT sealed FROM kpersistent WHERE sub_id = ? AND credential_id = ?",
            sub_id,
            credential_id,
        )
        if not rows:
            raise LocalFault(f"credential {credential_id} has no persistent key at this reader")
        self.put_kpersistent(credential_id, sub_id, rows[0][0])

    def forget_kpersistent(self, credential_id: str) -> None:
        """Erase the persistent keys of a credential; its next transaction is a standard one."""
        self._delete("kpersistent", "credential_id = ?", credential_id)

    def log(
        self,
        *,
        t_s: float,
        kind: str,
        position: Position | None = None,
        credential_id: str | None = None,
        code: RefusalCode | None = None,
        text: str = "",
    ) -> int:
        """Append to the event log and return the number of the entry."""
        rows = self._rows("SELECT coalesce(max(seq), 0) + 1 FROM event")
        seq = int(rows[0][0])
        plain_position = None if position is None else position.value
        plain_code = None if code is None else code.value
        self._insert(
            "event", (seq, float(t_s), kind, plain_position, credential_id, plain_code, text)
        )
        return seq

    # --- the owner and the pairing code -------------------------------------------------------

    def issue_code(self, *, issued_s: float, salt: bytes, sealed: bytes) -> int:
        """Keep a new code and return its number; an earlier one is closed.

        Closed codes that were issued over an hour before are forgotten.
        """
        for row in self._codes("state <> 'CLOSED'"):
            self.close_code(row[0])
        self._delete(
            "pairing_code",
            "state = 'CLOSED' AND issued_s <= ?"
            " AND number < (SELECT max(number) FROM pairing_code)",
            float(issued_s) - _HOUR_S,
        )
        rows = self._rows("SELECT coalesce(max(number), 0) + 1 FROM pairing_code")
        number = int(rows[0][0])
        row = (number, float(issued_s), bytes(salt), bytes(sealed), 0, "OPEN", None)
        self._insert("pairing_code", row)
        return number

    def count_try(self, number: int) -> int:
        """Count one try of a live code and return how many there were.

        Raises:
            PolicyRefusal: CODE_LOCKED_OUT, it had its tries; NOT_AUTHORISED, it is closed.
        """
        row = self._live(number)
        tries = int(row[4])
        if tries >= CODE_MAX_TRIES:
            raise PolicyRefusal(
                RefusalCode.CODE_LOCKED_OUT,
                f"the code was tried {tries} times",
                hint="let the head unit issue a new code",
            )
        self._insert("pairing_code", (*row[:4], tries + 1, *row[5:]), or_replace=True)
        return tries + 1

    def pair_code(self, number: int, credential_id: str) -> None:
        """Note which credential a live code enrolled.

        Raises:
            PolicyRefusal: NOT_AUTHORISED, the code is closed.
            LocalFault: The credential is not enrolled.
        """
        row = self._live(number)
        self._known(credential_id)
        self._insert("pairing_code", (*row[:5], "PAIRED", credential_id), or_replace=True)

    def close_code(self, number: int) -> None:
        """Close a code for good and erase what could verify it; a closed one stays closed."""
        for row in self._codes("number = ?", number):
            closed = (*row[:3], None, row[4], "CLOSED", None)
            self._insert("pairing_code", closed, or_replace=True)

    def set_resolving_key(self, sealed: bytes) -> None:
        """Keep the resolving key of this owner epoch, sealed by the caller."""
        epoch = self._rows("SELECT epoch FROM ownership")[0][0]
        self._insert("ownership", (1, epoch, bytes(sealed)), or_replace=True)

    def factory_reset(self, *, resolving_key: bytes) -> int:
        """Erase all credentials, their keys and the codes; return the new owner epoch.

        The event log stays, without names: what happened, where and when, but not to whom.

        Args:
            resolving_key: The new one, sealed by the caller.
        """
        epoch = int(self._rows("SELECT epoch + 1 FROM ownership")[0][0])
        for table in _PERSONAL:
            self._delete(table, "TRUE")
        self._writable().write(
            "UPDATE event SET text = '', credential_id = NULL, digest ="
            " row_digest ('event', seq, t_s, kind, position, NULL, code, '')"
            " WHERE text <> '' OR credential_id IS NOT NULL"
        )
        self._insert("ownership", (1, epoch, bytes(resolving_key)), or_replace=True)
        return epoch

    def _codes(self, where: str, *values: Value) -> list[tuple[Any, ...]]:
        columns = ", ".join(COLUMNS["pairing_code"])
        return self._rows(f"SELECT {columns} FROM pairing_code WHERE {where}", *values)  # noqa: S608 - constant names

    def _live(self, number: int) -> tuple[Any, ...]:
        rows = self._codes("number = ? AND state <> 'CLOSED'", number)
        if not rows:
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                "the code is closed",
                hint="let the head unit issue a new code",
            )
        return rows[0]

    def end(self) -> None:
        """Refuse further writes; called when the block ends."""
        self._ended = True

    def _check_new(self, credential: Credential, replaces: str | None) -> None:
        if credential.state is not CredentialState.ACTIVE or credential.replaced_by is not None:
            raise LocalFault("a new credential is active")
        is_card = credential.role is Role.CARD
        if is_card is (credential.provenance is None):
            raise LocalFault("a card has a provenance, and nothing else has one")
        if replaces is not None and not is_card:
            raise LocalFault("only a card replaces a card")
        try:
            PublicKey.parse(credential.public_key)
        except WireError as exc:
            raise LocalFault(f"the credential's public key is no key: {exc}") from exc

    def _replaced(self, replaces: str | None) -> Credential | None:
        if replaces is None:
            return None
        old = self._credential(replaces)
        if old is None or old.role is not Role.CARD:
            raise PolicyRefusal(
                RefusalCode.KEY_UNKNOWN,
                "the card to replace is not enrolled in this vehicle",
                hint="list the paired cards and name one of them",
            )
        if old.state in (CredentialState.REVOKED, CredentialState.REPLACED):
            raise PolicyRefusal(
                RefusalCode.CARD_BLOCKED,
                "the card to replace is already out of use",
                hint="pair the new card into a free place",
            )
        return old

    def _place(self, old: Credential | None) -> int:
        """Return the slot of ``old``, or the lowest free one."""
        taken = dict(self._rows("SELECT credential_id, slot FROM card_slot"))
        if old is not None:
            return int(taken[old.credential_id])
        free = sorted(_SLOTS - set(taken.values()))
        if not free:
            raise PolicyRefusal(
                RefusalCode.CARD_LIMIT,
                f"{len(_SLOTS)} cards are paired already",
                hint="replace a paired card, or revoke one",
            )
        return free[0]

    def _credential(self, credential_id: str) -> Credential | None:
        return find_credential(self._file, "c.id = ?", credential_id)

    def _known(self, credential_id: str) -> Credential:
        credential = self._credential(credential_id)
        if credential is None:
            raise LocalFault(
                f"no credential {credential_id} is enrolled", hint="list the credentials"
            )
        return credential

    def _retire(self, credential: Credential) -> None:
        self._update(credential)
        for table in ("card_slot", "first_use"):
            self._delete(table, "credential_id = ?", credential.credential_id)
        self.forget_kpersistent(credential.credential_id)

    def _update(self, credential: Credential) -> None:
        self._writable().update("credential", *credential_row(credential))

    def _insert(self, table: str, row: Sequence[Value], *, or_replace: bool = False) -> None:
        self._writable().put(table, *row, replace=or_replace)

    def _delete(self, table: str, condition: str, *values: Value) -> None:
        self._writable().delete(table, condition, *values)

    def _writable(self) -> DurableFile:
        if self._ended:
            raise LocalFault("the transaction has ended", hint="open another one")
        return self._file
