"""The key schedule of the access transaction (Aliro 1.0 §8.3.1).

Both roles fill one :class:`Context` and derive the same keys from it. Every value that an
attacker could turn (version, flags, policy, identifiers, the SELECT response's A5 object, vendor
extensions) is input, so a changed byte gives other keys and nothing verifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dkey.crypto.kdf import hkdf, x963
from dkey.crypto.secret import Secret

if TYPE_CHECKING:
    from dkey.access.profile import Interface

__all__ = [
    "DEVICE_USAGE",
    "READER_USAGE",
    "Context",
    "SessionKeys",
    "ble_keys",
    "diffie_hellman_key",
    "step_up_keys",
]

READER_USAGE: Final = bytes.fromhex("415D9569")
"""Usage word in what the reader signs (Aliro 1.0 §8.3.3.4.3)."""
DEVICE_USAGE: Final = bytes.fromhex("4E887B4C")
"""Usage word in what the device signs. That it differs stops reflection."""

_VOLATILE: Final = b"Volatile****"
_PERSISTENT: Final = b"Persistent**"
_FAST: Final = b"VolatileFast"
_BLOCK: Final = 160


class SessionKeys:
    """The 160 bytes of one derivation, as named keys of 32 bytes each."""

    __slots__ = ("_at", "_block")

    def __init__(self, block: bytes, *, fast: bool) -> None:
        self._block = block
        self._at = _FAST_ORDER if fast else _STANDARD_ORDER

    def _key(self, name: str) -> Secret:
        at = self._at[name]
        return Secret(self._block[at : at + 32])

    @property
    def exchange(self) -> tuple[Secret, Secret]:
        """Both keys of the EXCHANGE channel, reader to device and device to reader."""
        at = self._at["reader"]  # they stand side by side in both orders
        return Secret(self._block[at : at + 32]), Secret(self._block[at + 32 : at + 64])

    @property
    def exchange_reader(self) -> Secret:
        """Protects EXCHANGE commands, reader to device."""
        return self._key("reader")

    @property
    def exchange_device(self) -> Secret:
        """Protects AUTH1 and EXCHANGE responses, device to reader."""
        return self._key("device")

    @property
    def step_up(self) -> Secret | None:
        """Root of the step-up keys; None after a fast transaction, which has none."""
        return self._key("step_up") if "step_up" in self._at else None

    @property
    def ble(self) -> Secret:
        """Root of the BLE channel keys."""
        return self._key("ble")

    @property
    def ursk(self) -> Secret:
        """The ranging secret."""
        return self._key("ursk")

    @property
    def cryptogram(self) -> Secret:
        """Protects the cryptogram of a fast AUTH0 response; fast transactions only."""
        return self._key("cryptogram")

    def __repr__(self) -> str:
        return f"<session keys: {', '.join(self._at)}>"


_STANDARD_ORDER: Final = {"reader": 0, "device": 32, "step_up": 64, "ble": 96, "ursk": 128}
_FAST_ORDER: Final = {"cryptogram": 0, "reader": 32, "device": 64, "ble": 96, "ursk": 128}


def diffie_hellman_key(shared: Secret, transaction_id: bytes) -> Secret:
    """Return Kdh, 32 bytes: X9.63 over the ECDH x-coordinate (Aliro 1.0 §8.3.1.4)."""
    return Secret(x963(shared.reveal(), transaction_id, 32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What both sides know of one transaction once AUTH0 is answered.

    Attributes:
        group_key_x: x of the key the reader group is bound to, 32 bytes: the issuer's key when
            readers use certificates, else the reader's (Aliro 1.0 §6.2).
        reader_id: Group identifier, then sub-identifier, 32 bytes.
        interface: NFC or BLE.
        version: Selected protocol version, 2 bytes.
        reader_ephemeral_x: 32 bytes.
        device_ephemeral_x: 32 bytes.
        transaction_id: 16 bytes.
        parameters: AUTH0 tag 41, 0..255.
        policy: AUTH0 tag 42, 1..3.
        a5: The A5 object of the SELECT response, byte for byte as sent.
        extensions: The B1 object of the command, then the B2 object of the response, as sent;
            empty where there is none.
    """

    group_key_x: bytes
    reader_id: bytes
    interface: Interface
    version: bytes
    reader_ephemeral_x: bytes
    device_ephemeral_x: bytes
    transaction_id: bytes
    parameters: int
    policy: int
    a5: bytes
    extensions: bytes = b""

    def salt(self, label: bytes, credential_x: bytes = b"") -> bytes:
        """Return the HKDF salt for one label (Aliro 1.0 §8.3.1.12 and §8.3.1.13)."""
        return b"".join(
            (
                self.group_key_x,
                label,
                self.reader_id,
                self.interface.value,
                b"\x5c\x02",
                self.version,
                self.reader_ephemeral_x,
                self.transaction_id,
                bytes((self.parameters, self.policy)),
                self.a5,
                credential_x,
            )
        )

    @property
    def info(self) -> bytes:
        """The HKDF info: the device's ephemeral x, then the vendor extensions."""
        return self.device_ephemeral_x + self.extensions

    def standard(self, kdh: Secret) -> SessionKeys:
        """Derive the keys of a standard transaction."""
        block = hkdf(kdh.reveal(), self.salt(_VOLATILE), self.info, _BLOCK)
        return SessionKeys(block, fast=False)

    def persistent(self, kdh: Secret, credential_x: bytes) -> Secret:
        """Derive Kpersistent, 32 bytes, the seed of later fast transactions."""
        return Secret(hkdf(kdh.reveal(), self.salt(_PERSISTENT, credential_x), self.info, 32))

    def fast(self, kpersistent: Secret, credential_x: bytes) -> SessionKeys:
        """Derive the keys of a fast transaction."""
        block = hkdf(kpersistent.reveal(), self.salt(_FAST, credential_x), self.info, _BLOCK)
        return SessionKeys(block, fast=True)

    def signed_data(self, usage: bytes) -> bytes:
        """Return what a role signs in AUTH1 (Aliro 1.0 §8.3.3.4.3)."""
        return b"".join(
            (
                b"\x4d\x20",
                self.reader_id,
                b"\x86\x20",
                self.device_ephemeral_x,
                b"\x87\x20",
                self.reader_ephemeral_x,
                b"\x4c\x10",
                self.transaction_id,
                b"\x93\x04",
                usage,
            )
        )


def step_up_keys(step_up: Secret) -> tuple[Secret, Secret]:
    """Return the step-up keys (reader's direction, device's direction) (Aliro 1.0 §8.4.3)."""
    root = step_up.reveal()
    return Secret(hkdf(root, b"", b"SKReader", 32)), Secret(hkdf(root, b"", b"SKDevice", 32))


def ble_keys(ble: Secret, supported: bytes, selected: bytes) -> tuple[Secret, Secret]:
    """Return the BLE channel keys (reader's direction, device's) (Aliro 1.0 §11.8.1).

    Args:
        ble: Root key, 32 bytes.
        supported: The reader's supported versions as in its GATT value, 2 bytes each.
        selected: The version that the device selected, 2 bytes.
    """
    root, salt = ble.reveal(), supported + selected
    return (
        Secret(hkdf(root, salt, b"BleSKReader", 32)),
        Secret(hkdf(root, salt, b"BleSKDevice", 32)),
    )
