"""The worlds of the exhaustive lifecycle check: where each begins, what can happen, how deep."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dkey.conformance import lifecycle_ledger as ledger
from dkey.conformance import lifecycle_vehicle as vehicle
from dkey.conformance.lifecycle_state import World
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.flags import CascadeScope, Flags

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WORLDS"]

_VEHICLE: Final = (vehicle.papers, vehicle.clocks, vehicle.resets, vehicle.pairing)
_PAST: Final = (ledger.shares, vehicle.papers, vehicle.pairing)
_KEYS: Final = (ledger.shares, ledger.revocations, ledger.suspensions)
_ALL: Final = (*_KEYS, ledger.cards, ledger.holds, ledger.start, *_VEHICLE)
_USER_AND_ANNA: Final = (
    "the owner shares with user",
    "user shows the attestation and opens",
    "the actual user shares with anna",
    "anna shows the attestation and opens",
)
_BUSY: Final = (
    "the owner shares with user",
    "user shows the attestation and opens",
    "the actual user shares with anna",
    "the owner shares with bob",
    "the owner shares with carl",
    "anna shows the attestation and opens",
    "bob shows the attestation and opens",
    "carl shows the attestation and opens",
    "the owner pairs a card",
)
_CHAIN: Final = Flags(cascade_scope=CascadeScope.GRANT_CHAIN)

_LIST: Final = (
    World(
        name="fresh",
        about="a vehicle that was just paired: keys, cards, holds, clocks, one reset",
        depth=5,
        sources=_ALL,
    ),
    World(
        name="busy",
        about="an actual user, three associates and a card, all used already; the same events",
        depth=4,
        sources=_ALL,
        story=_BUSY,
        past=_PAST,
    ),
    World(
        name="grant-chain",
        about="the actual user takes along only whom that one let in; all places taken",
        depth=4,
        sources=(*_KEYS, *_VEHICLE),
        story=_BUSY,
        past=_PAST,
        flags=_CHAIN,
    ),
    World(
        name="crashes",
        about="crashes between write and answer at both ends, restarts, all that is asked again",
        depth=4,
        sources=(*_KEYS, ledger.repeats, vehicle.papers, vehicle.restarts, vehicle.resets),
        crashes=True,
    ),
    World(
        name="crashes-busy",
        about="the same, with an actual user and an associate who use their keys",
        depth=4,
        sources=(
            *(ledger.shares, ledger.revocations, ledger.repeats),
            *(vehicle.papers, vehicle.restarts),
        ),
        story=_USER_AND_ANNA,
        past=_PAST,
        crashes=True,
    ),
    World(
        name="invitations",
        about="invitations that are left pending, accepted late, or given back",
        depth=5,
        sources=(ledger.invitations, ledger.revocations, ledger.suspensions, vehicle.papers),
    ),
    World(
        name="owner-signs",
        about="a person whose phone signs attestations and lists, beside those of the authority",
        depth=5,
        sources=(*_KEYS, ledger.holds, ledger.forgeries, vehicle.papers, vehicle.resets),
        corporate=False,
        issuers=(Issuer.OWNER, Issuer.AUTHORITY),
        owner_signs=True,
    ),
    World(
        name="pause",
        about="pauses over suspensions and holds",
        depth=5,
        sources=(
            *(ledger.pauses, ledger.suspensions, ledger.revocations, ledger.holds),
            *(ledger.cards, vehicle.papers, vehicle.pairing),
        ),
        story=_USER_AND_ANNA,
        past=_PAST,
    ),
    World(
        name="vetoes",
        about="vetoes against people before and after they have keys",
        depth=5,
        sources=(ledger.vetoes, ledger.shares, ledger.revocations, vehicle.papers),
    ),
    World(
        name="providers",
        about="car washes that the owner, the actual user and an associate order",
        depth=5,
        sources=(*(ledger.orders, ledger.revocations, ledger.suspensions), vehicle.papers),
        story=_USER_AND_ANNA,
        past=_PAST,
        flags=Flags(remote_handover=True, cascade_scope=CascadeScope.GRANT_CHAIN),
    ),
    World(
        name="handover",
        about="a change of owner without a reset, after which every share ends",
        depth=4,
        sources=(*_KEYS, ledger.handover, vehicle.papers),
        story=_USER_AND_ANNA,
        past=_PAST,
    ),
    World(
        name="handover-survive",
        about="a change of owner without a reset that shares outlive",
        depth=4,
        sources=(*_KEYS, ledger.handover, ledger.repeats, vehicle.papers),
        story=_USER_AND_ANNA,
        past=_PAST,
        flags=Flags(friends_survive_owner_change=True),
    ),
    World(
        name="two-resets",
        about="two factory resets, reported late or together, and the owners between them",
        depth=6,
        sources=(ledger.shares, ledger.revocations, vehicle.papers, vehicle.resets),
        resets=2,
    ),
)

WORLDS: Final[Mapping[str, World]] = MappingProxyType({each.name: each for each in _LIST})
"""Every world by its name; several small ones are searched deeper than one that has everything."""
