"""What tests of shared keys have in common: who signs, what a phone carries, what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dkey.access.delivery import mailbox_of, receipt_in
from dkey.crypto.vault import MemoryVault
from dkey.lifecycle.attestation import sign_attestation
from dkey.lifecycle.claims import Issuer, KeyClaims, WithdrawalClaims, holder_ref, key_ref
from dkey.lifecycle.parcel import KeyParcel
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.withdrawal import sign_withdrawal
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from dkey.crypto.vault import Vault
    from dkey.lifecycle.parcel import VehicleReceipt

DAY_S = 86_400
AUTHORITY = "authority"


@dataclass(frozen=True)
class Signer:
    """Somebody who signs: a vault and the name of a key in it."""

    vault: Vault
    key: str

    @property
    def x(self) -> bytes:
        return self.vault.public(self.key).x


def signer_of(phone: Any) -> Signer:
    return Signer(phone.credential.vault, phone.credential.key)


def authority_signer(seed: str = "authority") -> Signer:
    key = SeededEntropy(seed).ephemeral()
    return Signer(MemoryVault(**{AUTHORITY: key}), AUTHORITY)


@dataclass
class Desk:
    """The account side of one vehicle, played by a test.

    Attributes:
        vehicle: The vehicle.
        owner: Who signs for the owner.
        authority: Who signs for the authority; the vehicle has its key once ``provide`` was called.
    """

    vehicle: Any
    owner: Signer
    authority: Signer = field(default_factory=authority_signer)

    def provide(self) -> None:
        """Give the vehicle the authority's key, as the factory does."""
        self.vehicle.provide_authority(self.authority.vault.public(self.authority.key))

    def corporate(self, number: int = 1, **changes: Any) -> bytes:
        """Let the authority say that the owner is a corporation; return its list."""
        self.provide()
        raw = self.list(number, issuer=Issuer.AUTHORITY, corporate=True, **changes)
        self.vehicle.share_desk.take_list(raw)
        return raw

    @property
    def now_s(self) -> int:
        return int(self.vehicle.wall_clock())

    def share_id(self, name: str) -> bytes:
        return key_ref(name.encode().ljust(32, b"."))

    def claims(self, phone: Any, slot: int = 1, **changes: Any) -> KeyClaims:
        """Return what the owner says of a friend's key."""
        signer = changes.pop("signer", self.owner)
        values: dict[str, Any] = {
            "vehicle": self.vehicle.group_id,
            "epoch": self.vehicle.store.ownership().epoch,
            "slot": slot,
            "share_id": self.share_id(phone.name),
            "holder": holder_ref(self.vehicle.group_id, phone.name),
            "public_key": phone.public_key.point,
            "role": Role.ASSOCIATE,
            "permission": Permission.ENTRY_AND_START,
            "not_before_s": self.now_s - DAY_S,
            "not_after_s": self.now_s + 365 * DAY_S,
            "reshare": False,
            "list_number": 0,
            "issued_s": self.now_s - 60,
            "signer": signer.x,
        }
        return KeyClaims(**{**values, **changes})

    def attest(self, phone: Any, slot: int = 1, **changes: Any) -> bytes:
        """Return the friend's attestation, signed."""
        signer = changes.get("signer", self.owner)
        return sign_attestation(self.claims(phone, slot, **changes), signer.vault, signer.key)

    def user_attest(self, phone: Any, **changes: Any) -> bytes:
        """Return an actual user's attestation."""
        return self.attest(phone, 0, **{"role": Role.ACTUAL_USER, "reshare": True, **changes})

    def list(self, number: int = 1, *, issuer: Issuer = Issuer.OWNER, **changes: Any) -> bytes:
        """Return a withdrawal list, signed by its issuer or by ``signer``."""
        signer = self.owner if issuer is Issuer.OWNER else self.authority
        signer = changes.pop("signer", signer)
        values: dict[str, Any] = {
            "vehicle": self.vehicle.group_id,
            "epoch": self.vehicle.store.ownership().epoch,
            "issuer": issuer,
            "number": number,
            "issued_s": self.now_s - 30,
        }
        claims = WithdrawalClaims(**{**values, **changes})
        return sign_withdrawal(claims, signer.vault, signer.key)


def carry(
    phone: Any,
    *chain: bytes,
    owner_list: bytes | None = None,
    authority_list: bytes | None = None,
    seen: VehicleReceipt | None = None,
) -> Any:
    """Put a parcel into the phone's mailbox; what the vehicle left there before is remembered."""
    lists = {Issuer.OWNER: owner_list, Issuer.AUTHORITY: authority_list}
    parcel = KeyParcel(
        chain=chain,
        lists={issuer: raw for issuer, raw in lists.items() if raw is not None},
        seen=seen,
    )
    phone.credential.mailbox = mailbox_of(parcel)
    return phone


def receipt_of(phone: Any) -> VehicleReceipt | None:
    """Return what the vehicle left in the phone's mailbox."""
    return receipt_in(phone.credential.mailbox.data)


def refusals(vehicle: Any, kind: str = "ADMISSION_REFUSED") -> list[Any]:
    """Return the codes of the refusals of one kind that the vehicle noted."""
    return [each.code for each in vehicle.store.events() if each.kind == kind]
