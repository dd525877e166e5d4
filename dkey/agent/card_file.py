"""The card file: an emulated card key, as JSON (specs/formats.md §6).

It is a credential file of the vehicle profile that also names where the card came from. A blank
card trusts no reader; pairing writes the vehicle into it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dkey.access.profile import VEHICLE
from dkey.agent.credential_file import CredentialFile
from dkey.codec.hexjson import load_record
from dkey.crypto.vault.files import read_text, replace_file
from dkey.errors import FileFormatError
from dkey.lifecycle.roles import CardProvenance

if TYPE_CHECKING:
    from pathlib import Path

    from dkey.access.credential import TrustedReader
    from dkey.crypto.entropy import Entropy

__all__ = ["CardFile"]

CLAUSE = "specs/formats.md §6"


class CardFile(CredentialFile):
    """A card file; a CardStore that writes the paired vehicle at once.

    Attributes:
        provenance: Whether the card came with the vehicle or was bought later.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        super().__init__(path, read_only=read_only)
        record = load_record(read_text(path), str(path), CLAUSE)
        try:
            self.provenance = CardProvenance(record.text("provenance"))
        except ValueError as exc:
            raise record.error("provenance", "expected INITIAL or PURCHASED") from exc
        if self.credential.profile is not VEHICLE:
            raise record.error("profile", 'a card has the profile "vehicle"')

    @classmethod
    def create(cls, path: Path, provenance: CardProvenance, entropy: Entropy) -> CardFile:
        """Write a blank card with a fresh key and open it; mode 0600.

        Raises:
            FileFormatError: Something is at ``path`` already.
        """
        if path.exists():
            raise FileFormatError(f"{path} exists already", hint="choose another file name")
        document: dict[str, object] = {
            "profile": VEHICLE.name,
            "provenance": provenance.value,
            "private_key": entropy.ephemeral().scalar().reveal().hex(),
            "readers": [],
            "kpersistent": [],
        }
        replace_file(path, json.dumps(document, indent=1) + "\n", mode=0o600)
        return cls(path)

    def save_reader(self, reader: TrustedReader) -> None:
        """Write the one vehicle of this card into the file."""
        entry = {"group_id": reader.group_id.hex(), "public_key": reader.public_key.point.hex()}
        self._update(readers=[entry])
