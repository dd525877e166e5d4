"""Checks known-answer files against the stack.

A file is recognised by its structure, never by its name: a Wycheproof file by its ``algorithm``,
any other one by the fields of its ``vectors``. What a file states and the stack does not compute
is counted as not implemented, never as agreed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dkey.conformance.vectors_aliro import KINDS, check_aliro
from dkey.conformance.vectors_case import Case, Tally, damaged
from dkey.conformance.vectors_crypto import TABLES, WYCHEPROOF, check_ecdsa_key
from dkey.crypto.p256 import PrivateKey
from dkey.errors import FileFormatError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["VectorReport", "check_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorReport:
    """What came of one file.

    Attributes:
        path: The file.
        agreed: Values that came out as the file says.
        disagreed: Values that did not.
        not_implemented: Values that the stack does not compute yet.
        failures: For each disagreement the identifier of its case and what differs.
    """

    path: Path
    agreed: int
    disagreed: int
    not_implemented: int
    failures: tuple[tuple[str, str], ...]


def check_file(path: Path) -> VectorReport:
    """Compare every value of a known-answer file that the stack can compute.

    Raises:
        FileFormatError: The file cannot be read, is damaged, or is of no known structure.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise FileFormatError(
            f"{path}: cannot be read ({exc})", hint="name a JSON file of known answers"
        ) from exc
    name = str(path)
    document = Case(_loaded(text, name), name, "file")
    tally = Tally()
    if document.has("testGroups"):
        _check_wycheproof(document, name, tally)
    else:
        _check_vectors(document, name, tally)
    return VectorReport(
        path=path,
        agreed=tally.agreed,
        disagreed=len(tally.failures),
        not_implemented=tally.not_implemented,
        failures=tuple(tally.failures),
    )


def _loaded(text: str, name: str) -> Any:
    """Parse the file; a key that stands twice is damage."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise damaged(name, "a key stands twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as exc:
        raise damaged(name, f"not JSON ({exc})") from exc


def _objects(case: Case, field: str, name: str, label: str) -> list[Case]:
    """Return a field that is a list of at least one object."""
    value = case.raw(field)
    if not isinstance(value, list) or not value:
        raise damaged(name, f"{field}: expected a list that is not empty")
    found = []
    for at, item in enumerate(value):
        known = item.get(label) if isinstance(item, dict) else None
        found.append(Case(item, name, f"{field}[{at}]" if known is None else str(known)))
    return found


def _check_wycheproof(document: Case, name: str, tally: Tally) -> None:
    algorithm = document.text("algorithm")
    check = WYCHEPROOF.get(algorithm)
    if check is None:
        raise _unknown(name, f"the algorithm {algorithm!r} is in none of the known files")
    count = 0
    for group in _objects(document, "testGroups", name, "source"):
        for case in _objects(group, "tests", name, "tcId"):
            if case.text("result") not in ("valid", "invalid", "acceptable"):
                raise case.error("result", "expected valid, invalid or acceptable")
            check(group, case, tally)
            count += 1
    if document.number("numberOfTests") != count:
        raise damaged(name, f"it has {count} tests and states another number")


def _check_vectors(document: Case, name: str, tally: Tally) -> None:
    if not document.has("vectors"):
        raise _unknown(name, "it has neither testGroups nor vectors")
    cases = _objects(document, "vectors", name, "id")
    if all(case.has("kind") for case in cases):
        if not any(case.text("kind") in KINDS for case in cases):
            raise _unknown(name, "none of its entries is of a known kind")
        check_aliro(cases, tally)
        return
    if document.has("Ux"):
        _check_rfc6979(document, cases, tally)
        return
    fields = set(cases[0].names())
    check = next((each for known, each in TABLES if known <= fields), None)
    if check is None:
        raise _unknown(name, "its entries have the fields of none of the known tables")
    for case in cases:
        check(case, tally)


def _check_rfc6979(document: Case, cases: list[Case], tally: Tally) -> None:
    scalar, x, y = (document.hex(name, 32) for name in ("x", "Ux", "Uy"))
    tally.same(
        document, "public key", lambda: PrivateKey.from_scalar(scalar).public.point, b"\x04" + x + y
    )
    for case in cases:
        check_ecdsa_key(case, tally, x, y)


def _unknown(name: str, text: str) -> FileFormatError:
    return FileFormatError(
        f"{name}: not a known-answer file that is understood: {text}",
        hint="pass files of the Aliro, RFC, NIST, UWB or Wycheproof collections",
    )
