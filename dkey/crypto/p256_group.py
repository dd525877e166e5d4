"""Points of P-256 added, negated and multiplied, where ECDH gives x-coordinates only.

Scalar multiplication is the crypto library's ECDH; the one affine addition and the y-coordinates
are integers of Python with blinded inversions, so "constant time" is not claimed
(specs/threat-model.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.crypto.p256 import ORDER, PrivateKey, PublicKey
from dkey.errors import AuthenticationError

if TYPE_CHECKING:
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret

__all__ = ["Group"]

_PRIME: Final = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_A: Final = -3
_B: Final = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B


class Group:
    """Arithmetic on whole points, which ECDH alone does not give.

    Args:
        entropy: Blinds inversions; it does not change any result.
    """

    __slots__ = ("_entropy",)

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def multiply(self, scalar: Secret, point: PublicKey) -> PublicKey:
        """Return ``scalar * point`` for a scalar of 32 bytes between 1 and n-1.

        ECDH gives the x-coordinates of k * Q and (k + 1) * Q. With Q they determine y:
        ``2 y_Q y = (x_Q + x)(a + x_Q x) + 2 b - x' (x_Q - x)^2``, the addition law solved for y.

        Raises:
            LocalFault: The scalar is out of range.
        """
        key = PrivateKey.from_scalar(scalar.reveal())
        number = int.from_bytes(scalar.reveal(), "big")
        if number == ORDER - 1:  # (k + 1) * Q is infinity
            return self.negate(point)
        successor = PrivateKey.from_scalar((number + 1).to_bytes(32, "big"))
        x = int.from_bytes(key.agree(point).reveal(), "big")
        x_next = int.from_bytes(successor.agree(point).reveal(), "big")
        x_q, y_q = _coordinates(point)
        numerator = (x_q + x) * (_A + x_q * x) + 2 * _B - x_next * (x_q - x) ** 2
        return _point(x, numerator * self._inverse(2 * y_q))

    def add(self, first: PublicKey, second: PublicKey) -> PublicKey:
        """Return ``first + second``.

        Raises:
            AuthenticationError: The sum is infinity, which no peer meets by chance.
        """
        x_1, y_1 = _coordinates(first)
        x_2, y_2 = _coordinates(second)
        if x_1 != x_2:
            slope = (y_2 - y_1) * self._inverse(x_2 - x_1)
        elif y_1 == y_2:
            slope = (3 * x_1 * x_1 + _A) * self._inverse(2 * y_1)
        else:
            raise AuthenticationError("the sum of two points is infinity")
        x = (slope * slope - x_1 - x_2) % _PRIME
        return _point(x, slope * (x_1 - x) - y_1)

    def negate(self, point: PublicKey) -> PublicKey:
        """Return ``-point``."""
        x, y = _coordinates(point)
        return _point(x, -y)

    def _inverse(self, value: int) -> int:
        # Euclid's running time depends on its input: let that be a random multiple.
        blind = int.from_bytes(self._entropy.random(40), "big") % (_PRIME - 1) + 1
        return pow(value * blind, -1, _PRIME) * blind


def _coordinates(point: PublicKey) -> tuple[int, int]:
    return int.from_bytes(point.x, "big"), int.from_bytes(point.point[33:], "big")


def _point(x: int, y: int) -> PublicKey:
    """Return the point; parsing checks that the arithmetic stayed on the curve."""
    return PublicKey.parse(b"\x04" + x.to_bytes(32, "big") + (y % _PRIME).to_bytes(32, "big"))
