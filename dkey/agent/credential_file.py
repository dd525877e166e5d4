"""The credential file: a device's key and the readers it trusts, as JSON (specs/formats.md §2).

The private key stands in it in the clear, as the format is for exchange with other tools and for
the bench. Real keys belong in a vault.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.keyfields import private_key, profile, public_key
from dkey.access.mailbox import Mailbox
from dkey.codec.hexjson import Record, load_record
from dkey.crypto.secret import Secret
from dkey.crypto.vault.files import read_text, replace_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CredentialFile"]

CLAUSE = "specs/formats.md §2"
KEY = "credential"


class CredentialFile:
    """A credential file and what it holds; a DeviceStore that writes changes back at once.

    Attributes:
        credential: The credential, with its private key in memory.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        record = load_record(read_text(path), str(path), CLAUSE)
        self.credential = _credential(record)

    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        """Write Kpersistent for one reader into the file, in place of an older one."""
        kept = {**self.credential.kpersistent, (group_id, sub_id): key}
        entries = [
            {"group_id": group.hex(), "sub_id": sub.hex(), "key": each.reveal().hex()}
            for (group, sub), each in kept.items()
        ]
        self._update(kpersistent=entries)

    def save_mailbox(self, data: bytes) -> None:
        """Write the mailbox content into the file."""
        mailbox = self.credential.mailbox
        if mailbox is not None:
            self._update(
                mailbox={
                    "size": len(data),
                    "data": data.hex(),
                    "read": mailbox.readable,
                    "write": mailbox.writable,
                }
            )

    def _update(self, **fields: object) -> None:
        if self._read_only:
            return
        document = json.loads(read_text(self._path))
        document.update(fields)
        replace_file(self._path, json.dumps(document, indent=1) + "\n")


def _credential(record: Record) -> DeviceCredential:
    readers = {}
    for each in record.records("readers"):
        group_id = each.hex("group_id", 16)
        if group_id in readers:
            raise each.error("group_id", "stands twice")
        readers[group_id] = TrustedReader(
            group_id=group_id,
            public_key=public_key(each, "public_key"),
            issuer_key=public_key(each, "issuer_key") if each.has("issuer_key") else None,
        )
    return DeviceCredential(
        profile=profile(record, "profile"),
        vault=private_key(record, "private_key", KEY),
        key=KEY,
        readers=readers,
        kpersistent={
            (each.hex("group_id", 16), each.hex("sub_id", 16)): Secret(each.hex("key", 32))
            for each in record.records("kpersistent")
        },
        mailbox=_mailbox(record.record("mailbox")) if record.has("mailbox") else None,
    )


def _mailbox(record: Record) -> Mailbox:
    size = record.number("size", 0, 0xFFFF)
    data = record.hex("data") if record.has("data") else b""
    if len(data) > size:
        raise record.error("data", f"{len(data)} bytes do not fit the size {size}")
    return Mailbox(
        data=data.ljust(size, b"\x00"),
        readable=record.flag("read") if record.has("read") else True,
        writable=record.flag("write") if record.has("write") else True,
    )
