"""The reader file: a reader's key and the credentials it knows, as JSON (specs/formats.md §3)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dkey.access.certificate import ReaderCertificate
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, ReaderIdentity
from dkey.access.keyfields import private_key, profile, public_key
from dkey.codec.hexjson import Record, load_record
from dkey.crypto.secret import Secret
from dkey.crypto.vault.files import read_text, replace_file
from dkey.errors import DkeyError

if TYPE_CHECKING:
    from pathlib import Path

    from dkey.crypto.p256 import PublicKey

__all__ = ["ReaderFile"]

CLAUSE = "specs/formats.md §3"
KEY = "reader"


class ReaderFile:
    """A reader file and what it holds.

    Attributes:
        identity: The reader, with its private key in memory.
        directory: Its enrolled credentials.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        record = load_record(read_text(path), str(path), CLAUSE)
        self.identity = _identity(record)
        credentials = [_credential(each) for each in record.records("credentials")]
        self.directory = MemoryDirectory(credentials)
        if len(self.directory) != len(credentials):
            raise record.error("credentials", "two credentials have the same public key")

    def save_kpersistent(self, public_key: PublicKey, key: Secret) -> None:
        """Write Kpersistent for one credential into the file, in place of an older one."""
        self.directory.store_kpersistent(public_key.x, key)
        document = json.loads(read_text(self._path))
        for entry in document["credentials"]:
            if bytes.fromhex(entry["public_key"])[1:33] == public_key.x:
                entry["kpersistent"] = key.reveal().hex()
        replace_file(self._path, json.dumps(document, indent=1) + "\n")


def _identity(record: Record) -> ReaderIdentity:
    vault = private_key(record, "private_key", KEY)
    certificate = record.hex("certificate") if record.has("certificate") else b""
    issuer_key = None
    if certificate:
        issuer_key = public_key(record, "issuer_key")
        try:
            parsed = ReaderCertificate.expand(certificate)
            parsed.verify(issuer_key)
        except DkeyError as exc:
            raise record.error("certificate", str(exc)) from exc
        if parsed.public_key != vault.public(KEY):
            raise record.error("certificate", "certifies another key than private_key")
    return ReaderIdentity(
        profile=profile(record, "profile"),
        group_id=record.hex("group_id", 16),
        sub_id=record.hex("sub_id", 16),
        vault=vault,
        key=KEY,
        certificate=certificate,
        issuer_key=issuer_key,
    )


def _credential(record: Record) -> EnrolledCredential:
    return EnrolledCredential(
        name=record.text("name"),
        public_key=public_key(record, "public_key"),
        kpersistent=Secret(record.hex("kpersistent", 32)) if record.has("kpersistent") else None,
    )
