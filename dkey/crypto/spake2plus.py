"""SPAKE2+ on P-256 (RFC 9383): two sides that share a code agree on a key, sans-IO.

The suite of the stack is P256-SHA256-HKDF-SHA256-HMAC-SHA256. The messages are::

    Prover (phone: w0, w1)                       Verifier (vehicle: w0, L)
    share()                   --- shareP 65 B -->  respond()
    confirm()      <-- shareV 65 B, confirmV 32 B
                              - confirmP 32 B -->  verify()
    shared_key()                                   shared_key()

Points are ``04 || x || y``. A session serves once; whatever goes wrong ends it, and its key is
given out only after the peer's confirmation was verified. The arithmetic on points is
:mod:`dkey.crypto.p256_group`; "constant time" is not claimed (specs/threat-model.md).

Each attempt is one guess at the code. A vehicle counts it durably *before* the answer of
:meth:`Verifier.respond` leaves: confirmV already tells the peer whether its guess was right.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from dkey.crypto.p256 import ORDER, PrivateKey, PublicKey
from dkey.crypto.p256_group import Group
from dkey.crypto.secret import Secret
from dkey.crypto.spake2plus_suite import SUITE, derive_keys
from dkey.errors import AuthenticationError, DkeyError, LocalFault, SequenceError, WireError

if TYPE_CHECKING:
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.spake2plus_suite import Suite, SuiteKeys

__all__ = [
    "TRANSITIONS",
    "Parties",
    "Prover",
    "Record",
    "Registration",
    "SessionInput",
    "SessionState",
    "Verifier",
    "derive_w0_w1",
    "prover_points",
    "share_p",
    "share_v",
    "transcript",
    "verifier_points",
]

CLAUSE: Final = "RFC 9383 §3.4"
SALT_SIZE_MIN: Final = 16
SCRYPT_MEMORY_LIMIT: Final = 256 << 20
"""Largest memory that scrypt may take, bytes; the parameters may come from the peer."""
_M: Final = PublicKey.parse(
    bytes.fromhex(
        "04886e2f97ace46e55ba9dd7242579f2993b64e16ef3dcab95afd497333d8fa12f"
        "5ff355163e43ce224e0b0e65ff02ac8e5c7be09419c785e0ca547d55a12e2d20"
    )
)
_N: Final = PublicKey.parse(
    bytes.fromhex(
        "04d8bbd6c639c62937b04d997f38c3770719c629d7014d49a24b4f98baa1292b49"
        "07d60aa6bfade45008a636337f5168c64d9bd36034808cd564490b1e656edbe7"
    )
)


# --- what each side holds ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the vehicle holds of a code. As sensitive as the code: it allows guessing off-line.

    Attributes:
        w0: 32 bytes, big-endian, 1..n-1.
        point: L = w1 * P.
    """

    w0: Secret
    point: PublicKey = field(repr=False)

    def __post_init__(self) -> None:
        _check_scalar(self.w0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What the phone derives from the code: w0 and w1, 32 bytes each, big-endian, 1..n-1."""

    w0: Secret
    w1: Secret

    def __post_init__(self) -> None:
        _check_scalar(self.w0)
        _check_scalar(self.w1)

    def record(self) -> Record:
        """Return the vehicle's part."""
        return Record(w0=self.w0, point=PrivateKey.from_scalar(self.w1.reveal()).public)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """What both sides must agree on beforehand; none may be empty.

    Attributes:
        context: Names the protocol, its version and its parameters.
        id_prover: Identity of the phone's role.
        id_verifier: Identity of the vehicle.
    """

    context: bytes
    id_prover: bytes
    id_verifier: bytes

    def __post_init__(self) -> None:
        if not (self.context and self.id_prover and self.id_verifier):
            raise LocalFault("SPAKE2+ needs a context and both identities", clause="RFC 9383 §3.3")


def derive_w0_w1(
    code: Secret,
    salt: bytes,
    id_prover: bytes,
    id_verifier: bytes,
    *,
    n: int = 32768,
    r: int = 8,
    p: int = 1,
) -> Registration:
    """Stretch the code with scrypt (RFC 9383 §3.2, RFC 7914). May run in a thread.

    scrypt's password is ``len(code) || code || len(id_prover) || id_prover || len(id_verifier) ||
    id_verifier``, each length 8 bytes little-endian; its output has 80 bytes: w0s (40) || w1s
    (40), big-endian, each reduced by the order; 64 bits more than the order leave no bias.
    A caller that takes ``n``, ``r``, ``p`` from the peer checks them against its policy first.

    Args:
        code: The one-time code as both sides write it.
        salt: Fresh for each code, at least 16 bytes.
        id_prover: As in :class:`Parties`.
        id_verifier: As in :class:`Parties`.
        n: Cost, a power of two; memory is ``128 * r * n`` bytes.
        r: Block size.
        p: Parallelism.

    Raises:
        LocalFault: Parameters that scrypt does not take or that need too much memory.
    """
    if not len(code) or len(salt) < SALT_SIZE_MIN:
        raise LocalFault(
            f"scrypt needs a code, and a salt of at least {SALT_SIZE_MIN} bytes",
            clause="RFC 9383 §3.2",
        )
    if not 0 < min(n, r, p) <= max(n, r, p) < 1 << 30:
        raise LocalFault("scrypt's cost is out of range", hint="use n=32768, r=8, p=1")
    password = b"".join(map(_prefixed, (code.reveal(), id_prover, id_verifier)))
    try:
        output = hashlib.scrypt(
            password, salt=salt, n=n, r=r, p=p, maxmem=SCRYPT_MEMORY_LIMIT, dklen=80
        )
    except ValueError as exc:
        raise LocalFault("scrypt does not take this cost", hint="use n=32768, r=8, p=1") from exc
    return Registration(w0=_reduced(output[:40]), w1=_reduced(output[40:]))


def _check_scalar(scalar: Secret) -> None:
    if len(scalar) != 32 or not 0 < int.from_bytes(scalar.reveal(), "big") < ORDER:
        raise LocalFault("w0 and w1 are 32 bytes between 1 and the curve's order minus 1")


def _reduced(wide: bytes) -> Secret:
    return Secret((int.from_bytes(wide, "big") % ORDER).to_bytes(32, "big"))


def _prefixed(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


# --- points -----------------------------------------------------------------------------------


def share_p(group: Group, w0: Secret, ephemeral: PrivateKey) -> PublicKey:
    """Return the prover's share, x * P + w0 * M."""
    return group.add(ephemeral.public, group.multiply(w0, _M))


def share_v(group: Group, w0: Secret, ephemeral: PrivateKey) -> PublicKey:
    """Return the verifier's share, y * P + w0 * N."""
    return group.add(ephemeral.public, group.multiply(w0, _N))


def prover_points(
    group: Group, registration: Registration, ephemeral: PrivateKey, share: PublicKey
) -> tuple[PublicKey, PublicKey]:
    """Return Z and V from the verifier's share: x * T and w1 * T, T = shareV - w0 * N.

    Raises:
        AuthenticationError: T is infinity.
    """
    base = _unmasked(group, share, registration.w0, _N)
    z = group.multiply(ephemeral.scalar(), base)
    return z, group.multiply(registration.w1, base)


def verifier_points(
    group: Group, record: Record, ephemeral: PrivateKey, share: PublicKey
) -> tuple[PublicKey, PublicKey]:
    """Return Z and V from the prover's share: y * (shareP - w0 * M) and y * L.

    Raises:
        AuthenticationError: shareP is w0 * M.
    """
    base = _unmasked(group, share, record.w0, _M)
    scalar = ephemeral.scalar()
    return group.multiply(scalar, base), group.multiply(scalar, record.point)


def _unmasked(group: Group, share: PublicKey, w0: Secret, mask: PublicKey) -> PublicKey:
    """Return ``share - w0 * mask``; only a peer that chose its share from w0 gets to infinity."""
    try:
        return group.add(share, group.negate(group.multiply(w0, mask)))
    except AuthenticationError as exc:
        raise _refused() from exc


# --- transcript -------------------------------------------------------------------------------


def transcript(
    parties: Parties,
    shares: tuple[bytes, bytes],
    points: tuple[PublicKey, PublicKey],
    w0: Secret,
) -> Secret:
    """Return TT (RFC 9383 §3.3): ten fields, each after its length in 8 bytes little-endian.

    Args:
        parties: Context and identities.
        shares: shareP and shareV.
        points: Z and V.
        w0: 32 bytes.
    """
    names = (parties.context, parties.id_prover, parties.id_verifier)
    z, v = points
    fields = (*names, _M.point, _N.point, *shares, z.point, v.point, w0.reveal())
    return Secret(b"".join(map(_prefixed, fields)))


# --- sessions ---------------------------------------------------------------------------------


class SessionState(Enum):
    """States of a session, the same for both roles."""

    READY = "has not begun"
    SHARED = "waits for the peer's confirmation"
    CONFIRMED = "holds the key"
    ENDED = "has ended"


class SessionInput(Enum):
    """What moves a session."""

    SHARE = "a share was asked for"
    CONFIRM = "a confirmation came"
    TAKE = "the key was asked for"


TRANSITIONS: Final[dict[tuple[SessionState, SessionInput], SessionState]] = {
    (SessionState.READY, SessionInput.SHARE): SessionState.SHARED,
    (SessionState.SHARED, SessionInput.CONFIRM): SessionState.CONFIRMED,
    (SessionState.CONFIRMED, SessionInput.TAKE): SessionState.ENDED,
}
"""Every pair that is not listed, and every step that fails, leads to ENDED."""


class _Session:
    """What the roles have in common: the states, and the key that is given out once."""

    __slots__ = ("_entropy", "_keys", "_parties", "_state", "_suite")

    def __init__(self, parties: Parties, entropy: Entropy, suite: Suite) -> None:
        self._parties = parties
        self._entropy = entropy
        self._suite = suite
        self._keys: SuiteKeys | None = None
        self._state = SessionState.READY

    @property
    def state(self) -> SessionState:
        """Where the session stands."""
        return self._state

    def shared_key(self) -> Secret:
        """Return K_shared, 32 bytes, once.

        Raises:
            LocalFault: The peer is not confirmed, or the key was taken before.
        """
        after = self._enter(SessionInput.TAKE, LocalFault)
        keys = self._take_keys()
        self._state = after
        return keys.shared

    def _enter(self, event: SessionInput, fault: type[DkeyError]) -> SessionState:
        """Return the state after the step; until the step succeeds the session is ended."""
        before, self._state = self._state, SessionState.ENDED
        after = TRANSITIONS.get((before, event))
        if after is None:
            self._keys = None
            raise fault(
                f"{event.value}, but the session {before.value}",
                clause=CLAUSE,
                hint="begin a new pairing attempt",
            )
        return after

    def _take_keys(self) -> SuiteKeys:
        keys, self._keys = self._keys, None
        if keys is None:
            raise LocalFault("the session holds no key", hint="begin a new pairing attempt")
        return keys

    def _check(self, key: Secret, share: bytes, confirmation: bytes) -> None:
        if len(confirmation) != self._suite.mac_size:
            raise WireError(f"a confirmation is {self._suite.mac_size} bytes", clause=CLAUSE)
        if not hmac.compare_digest(self._suite.mac(key, share), confirmation):
            raise _refused()


class Prover(_Session):
    """The phone's side.

    Args:
        registration: w0 and w1 of the code.
        parties: Context and identities.
        entropy: Gives the ephemeral key, when the share is asked for.
        suite: For known answers only.
    """

    __slots__ = ("_ephemeral", "_registration", "_share")

    def __init__(
        self,
        registration: Registration,
        *,
        parties: Parties,
        entropy: Entropy,
        suite: Suite = SUITE,
    ) -> None:
        super().__init__(parties, entropy, suite)
        self._registration = registration
        self._ephemeral: PrivateKey | None = None
        self._share = b""

    def share(self) -> bytes:
        """Return shareP, 65 bytes.

        Raises:
            LocalFault: Not the first step.
        """
        after = self._enter(SessionInput.SHARE, LocalFault)
        self._ephemeral = self._entropy.ephemeral()
        group = Group(self._entropy)
        self._share = share_p(group, self._registration.w0, self._ephemeral).point
        self._state = after
        return self._share

    def confirm(self, share: bytes, confirmation: bytes) -> bytes:
        """Verify the vehicle and return confirmP, 32 bytes.

        Args:
            share: shareV, 65 bytes.
            confirmation: confirmV, 32 bytes.

        Raises:
            WireError: A wrong size, or no point of the curve.
            AuthenticationError: The vehicle does not hold this code's record.
            SequenceError: Not the second step.
        """
        after = self._enter(SessionInput.CONFIRM, SequenceError)
        ephemeral, self._ephemeral = self._ephemeral, None
        assert ephemeral is not None  # the state says so
        peer = PublicKey.parse(share)
        registration = self._registration
        points = prover_points(Group(self._entropy), registration, ephemeral, peer)
        tt = transcript(self._parties, (self._share, share), points, registration.w0)
        keys = derive_keys(tt, self._suite)
        self._check(keys.confirm_v, self._share, confirmation)
        self._keys, self._state = keys, after
        return self._suite.mac(keys.confirm_p, share)


class Verifier(_Session):
    """The vehicle's side.

    Args:
        record: w0 and L of the code.
        parties: Context and identities.
        entropy: Gives the ephemeral key, when a valid share came.
        suite: For known answers only.
    """

    __slots__ = ("_record", "_share")

    def __init__(
        self, record: Record, *, parties: Parties, entropy: Entropy, suite: Suite = SUITE
    ) -> None:
        super().__init__(parties, entropy, suite)
        self._record = record
        self._share = b""

    def respond(self, share: bytes) -> tuple[bytes, bytes]:
        """Return shareV, 65 bytes, and confirmV, 32 bytes. Count the attempt before they leave.

        Args:
            share: shareP, 65 bytes.

        Raises:
            WireError: Not 65 bytes, or no point of the curve.
            AuthenticationError: A share that only a guess at the code explains; it counts, too.
            SequenceError: Not the first step.
        """
        after = self._enter(SessionInput.SHARE, SequenceError)
        peer = PublicKey.parse(share)
        ephemeral = self._entropy.ephemeral()
        group = Group(self._entropy)
        self._share = share_v(group, self._record.w0, ephemeral).point
        points = verifier_points(group, self._record, ephemeral, peer)
        tt = transcript(self._parties, (share, self._share), points, self._record.w0)
        self._keys = derive_keys(tt, self._suite)
        self._state = after
        return self._share, self._suite.mac(self._keys.confirm_v, share)

    def verify(self, confirmation: bytes) -> None:
        """Verify the phone's confirmP, 32 bytes.

        Raises:
            WireError: Not 32 bytes.
            AuthenticationError: The phone does not know the code.
            SequenceError: Not the second step.
        """
        after = self._enter(SessionInput.CONFIRM, SequenceError)
        keys = self._take_keys()
        self._check(keys.confirm_p, self._share, confirmation)
        self._keys, self._state = keys, after


def _refused() -> AuthenticationError:
    """Return the one error for a wrong code, a wrong identity and a forged message."""
    return AuthenticationError(
        "the peer did not prove that it knows the code",
        clause=CLAUSE,
        hint="compare the code with the head unit's, or let it issue a new one",
    )
