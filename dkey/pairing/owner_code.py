"""The one-time code: 8 digits for people, a ``dkey:`` URI for the QR (specs/pairing.md §2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dkey.crypto.secret import Secret
from dkey.errors import LocalFault

if TYPE_CHECKING:
    from dkey.crypto.entropy import Entropy

__all__ = ["CODE_DIGITS", "one_time_code", "parse_code", "qr_text", "shown_code"]

CODE_DIGITS: Final = 8
_CODES: Final = 10**CODE_DIGITS
_BELOW: Final = (1 << 32) // _CODES * _CODES
_URI: Final = re.compile(r"dkey:pair\?v=1&code=([0-9]{8})")
_TYPED: Final = re.compile(r"[0-9]{4}[ -]?[0-9]{4}")


def one_time_code(entropy: Entropy) -> Secret:
    """Return a fresh code: 8 ASCII digits, each of the 10^8 as likely as any other."""
    while True:
        number = int.from_bytes(entropy.random(4), "big")
        if number < _BELOW:  # a plain remainder would prefer small codes
            return Secret(f"{number % _CODES:0{CODE_DIGITS}d}".encode())


def shown_code(code: Secret) -> str:
    """Return the code as the head unit shows it: ``1234 5678``."""
    digits = code.reveal().decode("ascii")
    return f"{digits[:4]} {digits[4:]}"


def qr_text(code: Secret) -> str:
    """Return the content of the QR: ``dkey:pair?v=1&code=12345678``. The salt comes by radio."""
    return f"dkey:pair?v=1&code={code.reveal().decode('ascii')}"


def parse_code(text: str) -> Secret:
    """Return the code from what was typed (``1234 5678``, ``12345678``) or from the QR.

    Raises:
        LocalFault: Neither; the text is not repeated in the error.
    """
    uri = _URI.fullmatch(text.strip())
    if uri is not None:
        return Secret(uri[1].encode())
    if _TYPED.fullmatch(text.strip()):
        return Secret(re.sub(r"[^0-9]", "", text).encode())
    raise LocalFault(
        "this is no pairing code",
        hint="enter the 8 digits that the head unit shows, or scan its QR",
    )
