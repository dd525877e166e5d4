"""SELECT, which opens the access applet (Aliro 1.0 §10.2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dkey.access.messages import EXTENSION_MAX, Ins
from dkey.codec import tlv
from dkey.codec.apdu import Command
from dkey.codec.tlv import Field, Layout
from dkey.errors import WireError

__all__ = ["SelectResponse", "select_command"]

_FCI: Final = Layout(
    "SELECT response", "Aliro 1.0 §10.2.1.2", Field(0x84, 5, 16), Field(0xA5, 0, 240)
)
_A5: Final = Layout(
    "SELECT response A5",
    "Aliro 1.0 §10.2.1.2",
    Field(0x80, 2, 2),
    Field(0x5C, 2, 64),
    Field(0x7F66, 8, 8, required=False),
    Field(0xB3, 1, EXTENSION_MAX, required=False),
)
_EXTENDED: Final = "Aliro 1.0 §8.3.2.2"


def select_command(aid: bytes) -> Command:
    """Return SELECT by application identifier (Aliro 1.0 §10.2.1)."""
    return Command(0x00, Ins.SELECT, 0x04, 0x00, aid, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectResponse:
    """File control information of the access applet.

    Wire: ``6F { 84 AID, A5 { 80 type(2), 5C versions(2n), [7F66 { 02 02 command, 02 02 response
    }], [B3 extension] }, [unknown] }``.

    Attributes:
        aid: Application identifier.
        versions: Protocol versions, highest first, 2 bytes each.
        application_type: 2 bytes.
        max_command: Largest extended command APDU, bytes; None without extended lengths.
        max_response: Largest Ne; None without extended lengths.
        a5: The A5 object byte for byte, which is key schedule input.
    """

    aid: bytes
    versions: tuple[bytes, ...]
    application_type: bytes = b"\x00\x00"
    max_command: int | None = None
    max_response: int | None = None
    a5: bytes = b""

    def to_bytes(self) -> bytes:
        """Encode with minimal lengths; ``a5`` is ignored and made anew."""
        return tlv.encode(0x6F, tlv.encode(0x84, self.aid) + self.encode_a5())

    def encode_a5(self) -> bytes:
        """Return the A5 object."""
        inner = tlv.encode(0x80, self.application_type) + tlv.encode(0x5C, b"".join(self.versions))
        if self.max_command is not None and self.max_response is not None:
            sizes = (self.max_command, self.max_response)
            limits = b"".join(tlv.encode(0x02, size.to_bytes(2, "big")) for size in sizes)
            inner += tlv.encode(0x7F66, limits)
        return tlv.encode(0xA5, inner)

    @classmethod
    def parse(cls, data: bytes, *, minimal: bool = False) -> SelectResponse:
        """Decode the data of a SELECT response; unknown tags are skipped.

        Raises:
            WireError: Malformed, or a mandatory object is missing.
        """
        fci = tlv.single(data, 0x6F, minimal=minimal)
        outer = _FCI.parse(fci, minimal=minimal)
        start, end = next((s, e) for tag, s, _, e in tlv.items(fci) if tag == 0xA5)
        inner = _A5.parse(outer[0xA5], minimal=minimal)
        listed = inner[0x5C]
        if len(listed) % 2:
            raise _A5.error("the version list has an odd number of bytes")
        max_command = max_response = None
        if 0x7F66 in inner:
            sizes = [
                inner[0x7F66][at:stop]
                for tag, _, at, stop in tlv.items(inner[0x7F66])
                if tag == 0x02
            ]
            if len(sizes) != 2 or len(sizes[0]) != 2 or len(sizes[1]) != 2:
                raise WireError("extended length information is malformed", clause=_EXTENDED)
            max_command, max_response = (int.from_bytes(size, "big") for size in sizes)
        return cls(
            aid=outer[0x84],
            versions=tuple(listed[at : at + 2] for at in range(0, len(listed), 2)),
            application_type=inner[0x80],
            max_command=max_command,
            max_response=max_response,
            a5=fci[start:end],
        )
