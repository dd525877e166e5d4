"""Known answers of SPAKE2+ on P-256 (RFC 9383 Appendix C), every value of an entry.

The suite of an entry is the one whose name stands in its ``context``; other suites count as not
implemented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.p256_group import Group
from dkey.crypto.secret import Secret
from dkey.crypto.spake2plus import (
    Parties,
    Prover,
    Registration,
    Verifier,
    prover_points,
    transcript,
    verifier_points,
)
from dkey.crypto.spake2plus_suite import SUITES, derive_keys
from dkey.errors import DkeyError, FileFormatError

if TYPE_CHECKING:
    from dkey.conformance.vectors_case import Case, Tally
    from dkey.crypto.spake2plus_suite import Suite

__all__ = ["COMPUTED", "check_spake2plus"]

COMPUTED: Final = (
    "L",
    "shareP",
    "shareV",
    "Z",
    "V",
    "TT",
    "K_main",
    "K_confirmP",
    "K_confirmV",
    "confirmP",
    "confirmV",
    "K_shared",
)
"""The fields of an entry that are results; the others are what they are computed from."""
_INPUTS: Final = ("context", "idProver", "idVerifier", "w0", "w1", "x", "y")


class _Scripted:
    """The entry's ephemeral key; the blinding needs no particular bytes."""

    def __init__(self, scalar: bytes) -> None:
        self._scalar = scalar

    def ephemeral(self) -> PrivateKey:
        return PrivateKey.from_scalar(self._scalar)

    def random(self, size: int) -> bytes:
        return b"\xa5" * size


def check_spake2plus(case: Case, tally: Tally) -> None:
    """Compare each result of one entry, through both roles; what else it states is not computed.

    A value counts once, also where both sides compute it: both must agree with the file.
    """
    context = case.text("context")
    suite = next((each for each in SUITES if each.name in context), None)
    known = {name: case.hex(name) for name in COMPUTED if case.has(name)}
    if suite is None:
        tally.not_yet(len(known))
        return
    try:
        ours = _session(case, suite)
    except FileFormatError:
        raise
    except DkeyError as exc:
        tally.failures.append((case.name, str(exc)))
        return
    for name, expected in known.items():
        tally.judge(case, f"{name} differs", ok=ours[name] == {expected})
    tally.not_yet(len(case.unread("id", "source", "licence", "note", *_INPUTS)))


def _session(case: Case, suite: Suite) -> dict[str, set[bytes]]:
    """Return what the two sides compute; one value for a name where they agree."""
    names = (case.text(name).encode() for name in ("context", "idProver", "idVerifier"))
    parties = Parties(**dict(zip(("context", "id_prover", "id_verifier"), names, strict=True)))
    registration = Registration(w0=Secret(case.hex("w0", 32)), w1=Secret(case.hex("w1", 32)))
    record = registration.record()
    by_x, by_y = (_Scripted(case.hex(name, 32)) for name in ("x", "y"))
    prover = Prover(registration, parties=parties, entropy=by_x, suite=suite)
    verifier = Verifier(record, parties=parties, entropy=by_y, suite=suite)
    share_p = prover.share()
    share_v, confirm_v = verifier.respond(share_p)
    confirm_p = prover.confirm(share_v, confirm_v)
    verifier.verify(confirm_p)
    found = {
        "L": {record.point.point},
        "shareP": {share_p},
        "shareV": {share_v},
        "confirmP": {confirm_p},
        "confirmV": {confirm_v},
        "K_shared": {prover.shared_key().reveal(), verifier.shared_key().reveal()},
    }
    # The roles keep the intermediate values to themselves: the same steps once more, in the open.
    group, keys = Group(by_x), (by_x.ephemeral(), by_y.ephemeral())
    for points in (
        prover_points(group, registration, keys[0], PublicKey.parse(share_v)),
        verifier_points(group, record, keys[1], PublicKey.parse(share_p)),
    ):
        tt = transcript(parties, (share_p, share_v), points, registration.w0)
        derived = derive_keys(tt, suite)
        for name, value in (
            ("Z", points[0].point),
            ("V", points[1].point),
            ("TT", tt.reveal()),
            ("K_main", derived.main.reveal()),
            ("K_confirmP", derived.confirm_p.reveal()),
            ("K_confirmV", derived.confirm_v.reveal()),
        ):
            found.setdefault(name, set()).add(value)
    return found
