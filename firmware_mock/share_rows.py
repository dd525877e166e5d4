"""The rows that shared keys have in the vehicle's store, and what goes with the key list.

Reads and writes of single rows in the open file; all writes stand inside a transaction of the
caller, so that they are one commit with the ledger's entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.crypto.p256 import PublicKey
from dkey.lifecycle.features import pack_features, parse_features

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.lifecycle.durable import DurableFile
    from dkey.lifecycle.features import Feature

__all__ = [
    "authority_key",
    "feature_sets",
    "floor_s",
    "keep_authority_key",
    "keep_feature_set",
    "keep_floor",
    "keep_reported",
    "keep_share",
    "keep_standard_use",
    "reported_seq",
    "set_epoch",
    "shares",
    "standard_uses",
]


def shares(file: DurableFile) -> Mapping[str, bytes]:
    """Return share ids by credential id, of every share of this owner epoch that was let in."""
    return dict(file.rows("SELECT credential_id, share_id FROM share"))


def keep_share(file: DurableFile, credential_id: str, share_id: bytes) -> None:
    """Note which share a credential came with."""
    file.put("share", credential_id, share_id)


def standard_uses(file: DurableFile) -> Mapping[str, int]:
    """Return by credential id when its last standard transaction was, trusted seconds."""
    return dict(file.rows("SELECT credential_id, at_s FROM standard_use"))


def keep_standard_use(file: DurableFile, credential_id: str, at_s: int) -> None:
    """Note a standard transaction."""
    file.put("standard_use", credential_id, at_s, replace=True)


def feature_sets(file: DurableFile) -> Mapping[str, frozenset[Feature]]:
    """Return by credential id what its device is able to, of those that said so."""
    rows = file.rows("SELECT credential_id, features FROM feature_set")
    return {credential_id: parse_features(features) for credential_id, features in rows}


def keep_feature_set(file: DurableFile, credential_id: str, features: frozenset[Feature]) -> None:
    """Note what a credential's device is able to."""
    file.put("feature_set", credential_id, pack_features(features), replace=True)


def authority_key(file: DurableFile) -> PublicKey | None:
    """Return the key of the authority whose word counts; None where there is none."""
    rows = file.rows("SELECT public_key FROM authority")
    return PublicKey.parse(rows[0][0]) if rows else None


def keep_authority_key(file: DurableFile, key: PublicKey) -> None:
    """Keep the authority's key, in the place of another."""
    file.put("authority", 1, key.point, replace=True)


def floor_s(file: DurableFile) -> int:
    """Return the time that was certainly reached, seconds since 1970; 0 for none."""
    rows = file.rows("SELECT floor_s FROM trusted_time")
    return int(rows[0][0]) if rows else 0


def keep_floor(file: DurableFile, at_s: int) -> None:
    """Note that a time was reached; an earlier one changes nothing."""
    if at_s > floor_s(file):
        file.put("trusted_time", 1, at_s, replace=True)


def reported_seq(file: DurableFile) -> int:
    """Return the number of the last ledger entry that the authority was told of; 0 for none."""
    rows = file.rows("SELECT seq FROM reported")
    return int(rows[0][0]) if rows else 0


def keep_reported(file: DurableFile, seq: int) -> None:
    """Note up to which ledger entry the authority was told."""
    file.put("reported", 1, seq, replace=True)


def set_epoch(file: DurableFile, epoch: int, *, resolving_key: bytes) -> None:
    """Begin an owner epoch, with a resolving key of its own, sealed by the caller."""
    file.put("ownership", 1, epoch, resolving_key, replace=True)
