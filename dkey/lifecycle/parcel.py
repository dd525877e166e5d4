"""The key parcel: what a phone carries to the vehicle, and what the vehicle answers.

A parcel has the chain of the phone's key, the latest withdrawal list of each issuer, and what the
vehicle said of itself last time. It lies in the phone's mailbox, or travels over Bluetooth LE. A
header of fixed size comes first, so that the vehicle can see whether the rest is news to it. The
header is a hint: only what verifies in the body is acted on (specs/lifecycle.md §4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dkey.codec import cbor
from dkey.errors import LocalFault, WireError
from dkey.lifecycle.attestation import MAX_CHAIN, read_attestation
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.withdrawal import read_withdrawal, verify_withdrawal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.crypto.p256 import PublicKey
    from dkey.lifecycle.claims import WithdrawalClaims

__all__ = [
    "HEADER_SIZE",
    "MAX_PARCEL",
    "KeyParcel",
    "ParcelHeader",
    "VehicleReceipt",
    "lists_to_take",
    "rolled_back",
]

CLAUSE: Final = "specs/lifecycle.md §4"
MAX_PARCEL: Final = 16 * 1024
_MAGIC: Final = b"dkp1"
_HEADER: Final = struct.Struct(">4sBxHIII")
HEADER_SIZE: Final = _HEADER.size
_RECEIPT: Final = struct.Struct(">IIII")
_VERSION: Final = 1
_CHAIN, _OWNER, _AUTHORITY, _SEEN = 1, 2, 4, 8
_NUMBER: Final = range(1 << 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleReceipt:
    """What a vehicle says of its own state, for phones to keep.

    Wire: ``epoch(4) || owner list(4) || authority list(4) || admissions(4)``, 16 bytes.

    Attributes:
        epoch: Its owner epoch.
        owner_list: Number of the owner's list that it took last in this epoch; 0 for none.
        authority_list: The same of the authority.
        admissions: Keys that it admitted in this epoch so far; it never falls.
    """

    epoch: int
    owner_list: int = 0
    authority_list: int = 0
    admissions: int = 0

    def list_number(self, issuer: Issuer) -> int:
        """Return the number of the list that was taken from ``issuer``."""
        return self.owner_list if issuer is Issuer.OWNER else self.authority_list

    def to_bytes(self) -> bytes:
        """Encode.

        Raises:
            LocalFault: A number is not one of four bytes.
        """
        return _RECEIPT.pack(*_numbers(self))

    @classmethod
    def parse(cls, data: bytes) -> VehicleReceipt:
        """Decode exactly one receipt.

        Raises:
            WireError: Not 16 bytes.
        """
        if len(data) != _RECEIPT.size:
            raise WireError("a vehicle's receipt has 16 bytes", clause=CLAUSE)
        return cls(**dict(zip(_FIELDS, _RECEIPT.unpack(data), strict=True)))


_FIELDS: Final = ("epoch", "owner_list", "authority_list", "admissions")


def _numbers(receipt: VehicleReceipt) -> tuple[int, ...]:
    numbers = tuple(getattr(receipt, name) for name in _FIELDS)
    if any(number not in _NUMBER for number in numbers):
        raise LocalFault("the numbers of a receipt have four bytes", clause=CLAUSE)
    return numbers


def rolled_back(seen: VehicleReceipt, told: VehicleReceipt) -> bool:
    """Whether a vehicle that said ``seen`` before and says ``told`` now lost what came between.

    A higher epoch is news, whatever else; in one epoch no number falls. The vehicle asks the same
    of a phone's memory, to notice that its own store was put back (security 4.2).
    """
    if told.epoch != seen.epoch:
        return told.epoch < seen.epoch
    return any(now < then for then, now in zip(_numbers(seen), _numbers(told), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcelHeader:
    """The first 20 bytes: a hint about the rest, which nobody signed.

    Wire: ``"dkp1" || flags(1) || 00 || body size(2) || epoch(4) || owner list(4) || authority
    list(4)``. Flags: 1 chain, 2 owner's list, 4 authority's list, 8 seen state; others are 0.

    Attributes:
        size: Bytes of the body that follows.
        epoch: Owner epoch of the chain, or else the highest of the lists; 0 when there are neither.
        owner_list: Number of the owner's list; 0 when there is none.
        authority_list: The same of the authority.
        chain: Whether a chain is there.
        seen: Whether the vehicle's last state is there.
    """

    size: int
    epoch: int
    owner_list: int
    authority_list: int
    chain: bool
    seen: bool

    @property
    def total(self) -> int:
        """Bytes of the whole parcel."""
        return HEADER_SIZE + self.size

    def to_bytes(self) -> bytes:
        """Encode."""
        flags = _CHAIN * self.chain | _SEEN * self.seen
        flags |= _OWNER * bool(self.owner_list) | _AUTHORITY * bool(self.authority_list)
        numbers = (self.epoch, self.owner_list, self.authority_list)
        return _HEADER.pack(_MAGIC, flags, self.size, *numbers)

    @classmethod
    def parse(cls, data: bytes) -> ParcelHeader:
        """Decode exactly one header.

        Raises:
            WireError: Not 20 bytes, another magic, reserved bits, flags that the numbers
                contradict, or a body that is too large.
        """
        if len(data) != HEADER_SIZE:
            raise _malformed("its header has 20 bytes")
        magic, flags, size, epoch, owner, authority = _HEADER.unpack(data)
        found = cls(
            size=size,
            epoch=epoch,
            owner_list=owner,
            authority_list=authority,
            chain=bool(flags & _CHAIN),
            seen=bool(flags & _SEEN),
        )
        if magic != _MAGIC or found.to_bytes() != data or found.total > MAX_PARCEL:
            raise _malformed("its header is not one of this version")
        return found

    def is_news(self, taken: VehicleReceipt) -> bool:
        """Whether a list may be in the parcel that a vehicle in this state has not taken."""
        return self.epoch == taken.epoch and (
            self.owner_list > taken.owner_list or self.authority_list > taken.authority_list
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyParcel:
    """What a phone carries; nothing of it is trusted by being in it.

    Wire: header, then deterministic CBOR ``[1, chain, owner's list or null, authority's list or
    null, seen or null]``; at most 16 KiB together.

    Attributes:
        chain: Attestations as signed, the root's first; none for the owner's own phone.
        lists: The latest list of each issuer, as signed.
        seen: What the vehicle said of itself last time.
    """

    chain: tuple[bytes, ...] = ()
    lists: Mapping[Issuer, bytes]
    seen: VehicleReceipt | None = None

    def to_bytes(self) -> bytes:
        """Encode.

        Raises:
            LocalFault: Over 16 KiB, or one of the statements has not its form.
        """
        seen = self.seen and self.seen.to_bytes()
        lists = [self.lists.get(issuer) for issuer in (Issuer.OWNER, Issuer.AUTHORITY)]
        body = cbor.encode([_VERSION, list(self.chain), *lists, seen])
        try:
            header = self._header(len(body))
        except WireError as exc:
            raise LocalFault(f"this is no key parcel: {exc}", clause=CLAUSE) from exc
        if header.total > MAX_PARCEL:
            raise LocalFault(f"a key parcel has at most {MAX_PARCEL} bytes", clause=CLAUSE)
        return header.to_bytes() + body

    @classmethod
    def parse(cls, data: bytes) -> KeyParcel:
        """Decode exactly one parcel and the form of every statement in it.

        Raises:
            WireError: Any other form, a header that the body contradicts, a list in another
                issuer's place.
        """
        header = ParcelHeader.parse(data[:HEADER_SIZE])
        if len(data) != header.total:
            raise _malformed("its size is not the one that the header says")
        body: Any = cbor.decode(data[HEADER_SIZE:])
        if not isinstance(body, list) or len(body) != 5:
            raise _malformed("its body has five parts")
        version, chain, owner, authority, seen = body
        if type(version) is not int or version != _VERSION:
            raise _malformed("its version is not known")
        if not isinstance(chain, list) or len(chain) > MAX_CHAIN:
            raise _malformed(f"a chain has at most {MAX_CHAIN} attestations")
        parts = (*chain, *(part for part in (owner, authority, seen) if part is not None))
        if not all(isinstance(part, bytes) for part in parts):
            raise _malformed("a part is no byte string")
        both = {Issuer.OWNER: owner, Issuer.AUTHORITY: authority}
        parcel = cls(
            chain=tuple(chain),
            lists={issuer: raw for issuer, raw in both.items() if raw is not None},
            seen=None if seen is None else VehicleReceipt.parse(seen),
        )
        if parcel._header(header.size) != header:
            raise _malformed("its header says something else than its body")
        return parcel

    def _header(self, size: int) -> ParcelHeader:
        """Return the header for what the statements say."""
        if len(self.chain) > MAX_CHAIN:
            raise _malformed(f"a chain has at most {MAX_CHAIN} attestations")
        claims = [read_attestation(raw).claims for raw in self.chain]
        lists = {issuer: read_withdrawal(raw) for issuer, raw in self.lists.items()}
        if any(each.issuer is not issuer for issuer, each in lists.items()):
            raise _malformed("a list stands in another issuer's place")
        numbers = {issuer: each.number for issuer, each in lists.items()}
        epochs = [each.epoch for each in claims[-1:]] or [each.epoch for each in lists.values()]
        return ParcelHeader(
            size=size,
            epoch=max(epochs, default=0),
            owner_list=numbers.get(Issuer.OWNER, 0),
            authority_list=numbers.get(Issuer.AUTHORITY, 0),
            chain=bool(claims),
            seen=self.seen is not None,
        )


def lists_to_take(
    parcel: KeyParcel,
    *,
    keys: Mapping[Issuer, PublicKey],
    vehicle: bytes,
    taken: VehicleReceipt,
) -> tuple[WithdrawalClaims, ...]:
    """Return the lists of a parcel that a vehicle takes, the authority's first.

    A list that is not newer, or of another owner epoch, is left where it is, unverified: phones
    carry old ones in good faith, also those of a former owner. The caller commits what is returned
    before it answers.

    Args:
        parcel: What the phone carries.
        keys: Key of each issuer, as the vehicle knows it; without one, that issuer's list is left.
        vehicle: Identifier of this vehicle.
        taken: The state of the vehicle.

    Raises:
        AuthenticationError, PolicyRefusal: A newer list does not verify; none is taken.
    """
    news = []
    for issuer in (Issuer.AUTHORITY, Issuer.OWNER):
        raw, key = parcel.lists.get(issuer), keys.get(issuer)
        if raw is None or key is None:
            continue
        # Read before it is verified: an old one may be of a former owner, whose key is gone.
        claims = read_withdrawal(raw)
        if claims.epoch == taken.epoch and claims.number > taken.list_number(issuer):
            news.append(verify_withdrawal(raw, key, issuer=issuer, vehicle=vehicle))
    return tuple(news)


def _malformed(what: str) -> WireError:
    return WireError(f"a malformed key parcel: {what}", clause=CLAUSE)
