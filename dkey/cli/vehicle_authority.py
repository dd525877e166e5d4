"""How a mock vehicle comes to its authority: the key that it trusts, and the way to ask."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

from dkey.crypto.p256 import PublicKey
from dkey.errors import DkeyError, FileFormatError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["authority_key", "authority_port"]


def authority_key(text: str) -> PublicKey:
    """Return the authority's key from a file, or from the authority itself.

    Args:
        text: A file with the key as hex, or as ``public_key`` of a JSON object; or the authority's
            address, such as ``http://127.0.0.1:8460``.

    Raises:
        FileFormatError: There is no key in the file.
        LinkError: The authority does not answer.
    """
    if text.startswith(("http://", "https://")):
        client = importlib.import_module("dkey.authority.client")
        with client.AuthorityClient(text) as authority:
            found: PublicKey = authority.public_key
        return found
    try:
        with open(text, encoding="utf-8") as file:  # noqa: PTH123 - a click string
            said = file.read().strip()
        point = json.loads(said)["public_key"] if said.startswith("{") else said
        return PublicKey.parse(bytes.fromhex(point))
    except (OSError, ValueError, KeyError, TypeError, DkeyError) as exc:
        raise FileFormatError(
            f"{text} has no public key of an authority: {exc}",
            hint="write 65 bytes in hex into it, or give the address of the authority",
        ) from exc


def authority_port(url: str, token_file: Path | None) -> Any:
    """Return a client that speaks for a vehicle.

    Raises:
        FileFormatError: The token cannot be read.
    """
    tokens = {}
    if token_file is not None:
        try:
            tokens["@vehicle"] = token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as exc:
            raise FileFormatError(
                f"{token_file} has no token: {exc}",
                hint="write the token that the authority gave for this vehicle into it",
            ) from exc
    return importlib.import_module("dkey.authority.client").AuthorityClient(url, tokens)
