"""The append-only ledger of one side: what happened to its keys, sealed and chained.

It is a few tables in the side's durable file (:mod:`dkey.lifecycle.ledger_schema`, specs/storage.md
§7), so that an entry and the slot or credential it speaks of are one commit. Each entry is sealed,
AES-256-GCM, bound to the ledger's id, its number, its kind and the running digest of all entries
before it: an entry of another ledger, of another place or of another history does not open. A
snapshot is bound to the running digest at its entry, which stands for all entries up to it.

Not found in the file itself: the loss of the last entries, or the whole file put back from a
backup. What the peers saw last finds both (:func:`dkey.lifecycle.slots.remember_peer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dkey.crypto.seal import Seal
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, StoreError, VaultError
from dkey.lifecycle.durable import DurableFile, DurableStore
from dkey.lifecycle.ledger_schema import BEFORE_FIRST, next_running
from dkey.lifecycle.policy import RULES_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkey.crypto.entropy import Entropy

__all__ = ["Entry", "Head", "Ledger", "LedgerStore"]

_ENTRY: Final = b"dkey.ledger/1 entry"
_SNAPSHOT: Final = b"dkey.ledger/1 state"
_ID: Final = 16
_STAMP: Final = 2
_KEPT_SNAPSHOTS: Final = 2
_PAGE: Final = 1000
"""Entries read at a time: no more are in memory."""
_RESTORE: Final = "restore the store and its key file from the same backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry.

    Attributes:
        seq: Its number, from 1 without gaps.
        kind: What it is about; in clear in the file.
        body: What it says; sealed in the file.
        rules: Version of the rules under which it was accepted; 0 before they had one.
    """

    seq: int
    kind: str
    body: bytes
    rules: int = RULES_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far a ledger is.

    Attributes:
        seq: Number of the last entry; 0 before the first.
        digest: Running SHA-256 over all entries.
    """

    seq: int
    digest: bytes


class Ledger:
    """The ledger in an open file; used from one thread, while other processes may append too.

    The file's own check at open read the whole chain; this opens the newest snapshot and every
    entry after it, so that none of them was exchanged for one that only fits the chain.

    Args:
        file: An open file whose layout has the ledger's tables.
        seal_key: 32 bytes, the same for the life of the file.
        entropy: Source of nonces, and of the ledger's id the first time.

    Raises:
        StoreError: The snapshot or an entry after it does not open: damaged, or another key.
    """

    def __init__(self, file: DurableFile, seal_key: Secret, entropy: Entropy) -> None:
        self._file = file
        self._seal = Seal(seal_key, entropy)
        self._id = _identity(file, entropy)
        self.restored()
        self._remember(self.head)

    @property
    def head(self) -> Head:
        """How far the ledger is, with what other processes appended."""
        rows = self._file.rows("SELECT seq, running FROM ledger_entry ORDER BY seq DESC LIMIT 1")
        return Head(seq=rows[0][0], digest=rows[0][1]) if rows else _NOTHING

    def append(self, kind: str, body: bytes) -> int:
        """Add one entry, inside an open transaction of the file, and return its number.

        Raises:
            LocalFault: No transaction is open, or kind is not 1 to 32 letters.
        """
        if not (kind.isascii() and 1 <= len(kind) <= 32):
            raise LocalFault(f"no entry is of kind {kind!r}", hint="name it in 1 to 32 letters")
        if self._rollbacks != self._file.rollbacks:  # the remembered head may never have been
            self._remember(self.head)
        if not self._append_after(self._head, kind, body):  # another process was faster
            self._remember(self.head)
            if not self._append_after(self._head, kind, body):
                raise StoreError(f"nothing can follow entry {self._head.seq}", hint=_RESTORE)
        return self._head.seq

    def entries(self, after_seq: int = 0) -> Iterator[Entry]:
        """Yield the entries with a higher number, oldest first; each is checked and opened.

        Raises:
            StoreError: An entry is missing, changed or does not open; it is named.
        """
        head = self._at(after_seq)
        while rows := self._file.rows(
            "SELECT seq, kind, sealed, running FROM ledger_entry"
            " WHERE seq > ? ORDER BY seq LIMIT ?",
            head.seq,
            _PAGE,
        ):
            for seq, kind, sealed, running in rows:
                if seq != head.seq + 1:
                    raise StoreError(
                        f"entry {head.seq + 1} of the ledger is missing", hint=_RESTORE
                    )
                if running != next_running(head.digest, kind, sealed):
                    raise StoreError(f"entry {seq} of the ledger changed", hint=_RESTORE)
                said = self._opened(sealed, self._place(_ENTRY, head, kind), f"entry {seq}")
                head = Head(seq=seq, digest=running)
                rules, body = _unstamped(said)
                yield Entry(seq=seq, kind=kind, body=body, rules=rules)

    def replayable(self, after_seq: int = 0) -> Iterator[Entry]:
        """Yield entries as :meth:`entries`, to repeat what they did.

        Raises:
            StoreError: As there; or one was accepted under other rules than this program's, which
                might refuse it now, or make something else of it.
        """
        for entry in self.entries(after_seq):
            if entry.rules != RULES_VERSION:
                raise StoreError(
                    f"entry {entry.seq} of the ledger was accepted under rules {entry.rules},"
                    f" and this program has rules {RULES_VERSION}",
                    hint="open and close the store once with the program that wrote it: that keeps"
                    " the state, which any later program goes on from",
                )
            yield entry

    @property
    def unsaved(self) -> bool:
        """Whether there are entries behind the newest snapshot."""
        rows = self._file.rows("SELECT coalesce(max(seq), 0) FROM ledger_snapshot")
        newest: int = rows[0][0]
        return self.head.seq > newest

    def snapshot(self, body: bytes) -> None:
        """Keep the state as of the head, inside an open transaction; the last two stay.

        The second is for who repairs a store whose newest one was written wrong; it is not used.

        Raises:
            LocalFault: No transaction is open.
        """
        head = self.head
        sealed = self._seal.close(Secret(body), self._place(_SNAPSHOT, head))
        self._file.put("ledger_snapshot", head.seq, sealed, replace=True)
        self._file.delete(
            "ledger_snapshot",
            "seq NOT IN (SELECT seq FROM ledger_snapshot ORDER BY seq DESC LIMIT ?)",
            _KEPT_SNAPSHOTS,
        )

    def restored(self) -> tuple[bytes | None, tuple[Entry, ...]]:
        """Return the newest snapshot, None without one, and the entries after it.

        Raises:
            StoreError: It or one of them is damaged, does not open, or is of other rules.
        """
        rows = self._file.rows("SELECT seq, sealed FROM ledger_snapshot ORDER BY seq DESC LIMIT 1")
        if not rows:
            return None, tuple(self.replayable())
        ((seq, sealed),) = rows
        return self._state(seq, sealed), tuple(self.replayable(after_seq=seq))

    def verify(self) -> None:
        """Check and open every entry and every snapshot.

        Raises:
            StoreError: One is missing, changed or does not open; it is named.
        """
        for _ in self.entries():
            pass
        for seq, sealed in self._file.rows("SELECT seq, sealed FROM ledger_snapshot"):
            self._state(seq, sealed)

    def _append_after(self, head: Head, kind: str, body: bytes) -> bool:
        """Append one entry after ``head``, unless it has a successor; return whether it had none.

        Entries never leave, so a remembered head that is too old has one. Asking for the head each
        time would cost as much as sealing.
        """
        stamped = RULES_VERSION.to_bytes(_STAMP, "big") + body
        sealed = self._seal.close(Secret(stamped), self._place(_ENTRY, head, kind))
        new = Head(seq=head.seq + 1, digest=next_running(head.digest, kind, sealed))
        if self._file.write(_APPEND, new.seq, kind, sealed, new.digest) == 0:
            return False
        self._head = new
        return True

    def _remember(self, head: Head) -> None:
        self._head, self._rollbacks = head, self._file.rollbacks

    def _at(self, seq: int) -> Head:
        """Return the head as it was after entry ``seq``."""
        if seq <= 0:
            return _NOTHING
        rows = self._file.rows("SELECT running FROM ledger_entry WHERE seq = ?", seq)
        if not rows:
            raise StoreError(f"entry {seq} of the ledger is missing", hint=_RESTORE)
        return Head(seq=seq, digest=rows[0][0])

    def _place(self, what: bytes, head: Head, kind: str = "") -> bytes:
        """Return what a seal is bound to: label, id, number, running digest, kind."""
        seq = head.seq + (what == _ENTRY)
        return b"".join((what, self._id, seq.to_bytes(8, "big"), head.digest, kind.encode()))

    def _state(self, seq: int, sealed: bytes) -> bytes:
        place = self._place(_SNAPSHOT, self._at(seq))
        return self._opened(sealed, place, f"the snapshot of entry {seq}")

    def _opened(self, sealed: bytes, place: bytes, name: str) -> bytes:
        try:
            return self._seal.open(sealed, place).reveal()
        except VaultError as exc:
            raise StoreError(f"{name} of the ledger does not open", hint=_RESTORE) from exc


class LedgerStore(DurableStore):
    """A store whose file has a ledger; whoever holds the keys of the side opens it."""

    _ledger: Ledger | None = None

    def open_ledger(self, seal_key: Secret, entropy: Entropy) -> None:
        """Open the ledger as :attr:`ledger`, outside a transaction.

        Raises:
            StoreError: It is damaged, or sealed under another key.
        """
        self._ledger = Ledger(self._file, seal_key, entropy)

    @property
    def ledger(self) -> Ledger:
        """The open ledger.

        Raises:
            LocalFault: The store was opened without the key to it.
        """
        if self._ledger is None:
            raise LocalFault(
                "this store was opened without its ledger", hint="open it with the key file"
            )
        return self._ledger


def _unstamped(said: bytes) -> tuple[int, bytes]:
    """Return the version of the rules, and the body; before rules had one no body began with 0."""
    if said[:1] != b"\0" or len(said) < _STAMP:
        return 0, said
    return int.from_bytes(said[:_STAMP], "big"), said[_STAMP:]


_NOTHING: Final = Head(seq=0, digest=BEFORE_FIRST)
_APPEND: Final = "INSERT OR IGNORE INTO ledger_entry VALUES (?, ?, ?, ?)"
_FIND: Final = "SELECT id FROM ledger"


def _identity(file: DurableFile, entropy: Entropy) -> bytes:
    """Return the ledger's id, 16 bytes; the first to ask makes it."""
    if not (found := file.rows(_FIND)):
        with file.transaction():
            if not (found := file.rows(_FIND)):  # unless another process was first
                file.put("ledger", 1, entropy.random(_ID))
                found = file.rows(_FIND)
    identity: bytes = found[0][0]
    return identity
