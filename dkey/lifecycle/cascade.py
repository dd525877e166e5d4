"""Who stands on whose key: cascades go downwards only (requirements S51, S53, S54, S90, C3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkey.lifecycle.flags import CascadeScope
from dkey.lifecycle.roles import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dkey.lifecycle.flags import Flags
    from dkey.lifecycle.ring_state import Share

__all__ = ["beneath"]


def beneath(live: Sequence[Share], share: Share, flags: Flags) -> tuple[Share, ...]:
    """Return the live shares that fall with ``share``.

    With the actual user: every associate and provider of the vehicle, or those of the grant chain
    (C3). With an associate: the provider keys that the associate ordered. With a provider: none.
    """
    if share.role is Role.PROVIDER:
        return ()
    if share.role is Role.ASSOCIATE:
        return _orders(live, share.account)
    lower = tuple([each for each in live if each.role is not Role.ACTUAL_USER])
    if flags.cascade_scope is CascadeScope.VEHICLE:
        return lower
    granted = tuple(each for each in lower if each.grantor == share.account)
    ordered = tuple(
        order
        for each in granted
        if each.role is Role.ASSOCIATE
        for order in _orders(live, each.account)
    )
    return granted + ordered


def _orders(live: Sequence[Share], account: str) -> tuple[Share, ...]:
    return tuple([each for each in live if each.role is Role.PROVIDER and each.grantor == account])
