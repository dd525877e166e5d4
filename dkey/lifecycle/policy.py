"""Every number that a rule needs, once, with its source (requirements E).

Source keys: K, D and R are lines of the source documents (requirements, "Citation keys"); S and C
are rows of the requirements; *ours* marks a choice that no document makes.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ABSENT_HOLD_S",
    "CARD_PAIRING_WINDOW_S",
    "CODE_MAX_TRIES",
    "CODE_RESENDS_PER_HOUR",
    "CODE_TIMEOUT_MIN",
    "DAY_S",
    "FAST_MAX_AGE_DAYS",
    "HORN_AUTO_OFF_S",
    "INITIAL_CARDS",
    "INVITATION_TTL_H",
    "LOG_RETENTION_MONTHS",
    "LOST_LOCK_S",
    "MAX_ACCOUNT",
    "MAX_CARDS",
    "MAX_CHAIN",
    "MAX_DEVICES_PER_HOLDER",
    "MAX_ENDED_SHARES",
    "MAX_FAST_CANDIDATES",
    "MAX_HOLDERS",
    "MAX_SHARES",
    "MAX_UNTOLD_EPOCHS",
    "MAX_WITHDRAWN",
    "MOBIKEY_SLEEP_H",
    "MONTH_DAYS",
    "PAD_GRACE_S",
    "PAUSE_DAYS",
    "PAUSE_EXT_DAYS",
    "PAUSE_NOTICE_DAYS",
    "PAUSE_PER_YEAR",
    "PROVIDER_GRACE_MIN",
    "RELAY_BODY_BYTES",
    "RELAY_CREATES_BURST",
    "RELAY_CREATES_PER_H",
    "RELAY_MAILBOXES",
    "RELAY_REQUESTS_BURST",
    "RELAY_REQUESTS_PER_S",
    "RELAY_REQUEST_MEMORY_S",
    "REMOTE_HOURS",
    "REMOTE_REPEAT_S",
    "RULES_VERSION",
    "SMARTKEY_LOCK_COOLDOWN_S",
    "START_DWELL_S",
    "SUSPEND_NOTICE_DAYS",
    "TAP_DEBOUNCE_S",
    "TELEMATIC_IDLE_DAYS",
    "TERMINATE_NOTICE_DAYS",
    "TRANSFER_NOTICE_MONTHS",
    "YEAR_DAYS",
]

# Units of the rules below.
DAY_S: Final = 86_400
"""A day, in seconds."""
MONTH_DAYS: Final = 30.5
"""A month: six of them are the 183 days of S145 (ours)."""
YEAR_DAYS: Final = 365
"""The year in which pause requests count, from the first (ours; S83, C13)."""

# Holders and shares.
MAX_SHARES: Final = 3
"""Concurrent sharees of one vehicle, over all sharers (K716; S10, C1)."""
MAX_WITHDRAWN: Final = 256
"""References in one withdrawal list, so that two lists and a chain fit into a mailbox (ours)."""
MAX_HOLDERS: Final = 1 + MAX_SHARES
"""Holders whose devices may be tried: the owner and the sharees (security 5, case 34)."""
MAX_ACCOUNT: Final = 254
"""Bytes of an account id, which has the form of an e-mail address (RFC 5321; S5)."""
MAX_ENDED_SHARES: Final = 256
"""Shares that ended and are still shown, the newest ones (ours)."""
RULES_VERSION: Final = 1
"""Version of the rules that a ledger is repeated by; raised when an accepted entry could be refused
now, or mean something else (ours; specs/storage.md §7.11)."""
MAX_UNTOLD_EPOCHS: Final = 8
"""Owner epochs by which who pairs may be ahead of what the vehicle told the authority (ours)."""
MAX_CHAIN: Final = 2
"""Attestations in a row: the actual user's, then an associate's, who shares no further (C17)."""
MAX_DEVICES_PER_HOLDER: Final = 4
"""Devices of one holder that may be tried in a fast transaction (ours)."""

# Touch and cards.
INITIAL_CARDS: Final = 1
"""Cards given at purchase, ever, per vehicle (K82; S34)."""
MAX_CARDS: Final = 2
"""Cards of one vehicle that are active or suspended at a time (ours; C32)."""
MAX_FAST_CANDIDATES: Final = MAX_HOLDERS * MAX_DEVICES_PER_HOLDER + MAX_CARDS
"""Persistent keys tried in one fast transaction, at most (ours; security 5, case 34)."""
FAST_MAX_AGE_DAYS: Final = 7
"""A shared key opens by a fast transaction this long after its last standard one, in which the
vehicle takes what the phone carries; so a key withdrawn offline is bounded (ours; security 5, 16).
"""
PAD_GRACE_S: Final = 30.0
"""START passes this long after the key left the console pad, inclusive (ours; C24)."""
TAP_DEBOUNCE_S: Final = 1.5
"""A bare tap sooner than this after the last touch action does nothing (ours; C35)."""
CARD_PAIRING_WINDOW_S: Final = 60.0
"""A card must lie on the pad within this time of the owner's authority (ours; security 5, 24)."""

# Near-range and remote control.
REMOTE_REPEAT_S: Final = 30.0
"""Time between two remote commands, inclusive: at 30.0 the second passes (K290; S93, C8)."""
SMARTKEY_LOCK_COOLDOWN_S: Final = 30.0
"""No remote start this long after the smart key locked the doors (K291; S94)."""
HORN_AUTO_OFF_S: Final = 30.0
"""The horn stops by itself after this time (ours; C25)."""
REMOTE_HOURS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "KC1": 48,
        "KC1_2015U4": 96,
        "KC2": 96,
        "KC3": 96,
        "COMMERCIAL": 96,
        "NAV_10_25": 168,
        "CCNC": 336,
    }
)
"""Hours after ignition-off in which cellular remote control is given, by plan (K289; S95, C7)."""

# Proximity.
START_DWELL_S: Final = 0.3
"""A key must have been in the cabin for this long before it starts the engine (ours; S14)."""
LOST_LOCK_S: Final = 15.0
"""A key outside that is not measured for this long is gone (ours: holes reach 12 s)."""
ABSENT_HOLD_S: Final = 60.0
"""A key that was inside holds the walk-away lock for this long after its session ended (ours)."""

# Pairing codes.
CODE_MAX_TRIES: Final = 3
"""The third wrong code locks the attempt (K137; S64, C23)."""
CODE_TIMEOUT_MIN: Final = 5
"""A code not entered within this time is dead (ours; C23)."""
CODE_RESENDS_PER_HOUR: Final = 3
"""New codes for one pairing in an hour (ours; C23)."""

# Pause, suspension, termination.
PAUSE_DAYS: Final = 90
"""Longest pause of one request (K177; S83)."""
PAUSE_EXT_DAYS: Final = 90
"""Automatic extension of a pause that nobody ended (K178; C11, C12)."""
PAUSE_PER_YEAR: Final = 2
"""Pause requests in one year from the first (K177; C13)."""
PAUSE_NOTICE_DAYS: Final = 7
"""Notice before a pause ends (K178)."""
SUSPEND_NOTICE_DAYS: Final = 7
"""Notice before a suspension for unpaid fees (K194; S91)."""
TERMINATE_NOTICE_DAYS: Final = 14
"""Notice before the company terminates (K240; S59)."""
TRANSFER_NOTICE_MONTHS: Final = 1
"""Information after a termination for transfer (K249; S56)."""

# Records, providers, telematic units.
LOG_RETENTION_MONTHS: Final = 6
"""Key events are kept this long (K13216, by analogy; S145, C30)."""
PROVIDER_GRACE_MIN: Final = 15
"""A provider key outlives its booking by this (ours; C22)."""
MOBIKEY_SLEEP_H: Final = 24
"""A deactivated telematic unit is asleep after at most this (R235; S116, C26)."""
TELEMATIC_IDLE_DAYS: Final = 7
"""Wireless entry of a telematic unit may sleep after this (R153; S124, C27)."""

# The relay of key invitations.
INVITATION_TTL_H: Final = 48
"""Longest time that a relay keeps an invitation (secure-credential-transfer draft, sample)."""
RELAY_BODY_BYTES: Final = 65_536
"""Largest request that a relay reads (ours)."""
RELAY_CREATES_BURST: Final = 60
"""Mailboxes that one client may make at once (ours)."""
RELAY_CREATES_PER_H: Final = 60
"""Mailboxes that one client may make in an hour: no few of them fill the relay (ours)."""
RELAY_MAILBOXES: Final = 100_000
"""Mailboxes that a relay keeps at a time (ours)."""
RELAY_REQUESTS_BURST: Final = 60
"""Requests that one client may make at once (ours)."""
RELAY_REQUESTS_PER_S: Final = 1.0
"""Requests that one client gains back in a second (ours)."""
RELAY_REQUEST_MEMORY_S: Final = 3600.0
"""A repeated request is known for this long (ours)."""
