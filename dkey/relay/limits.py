"""How much the relay takes: sizes, numbers, times, and requests of one client."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from dkey.lifecycle.policy import (
    INVITATION_TTL_H,
    RELAY_BODY_BYTES,
    RELAY_CREATES_BURST,
    RELAY_CREATES_PER_H,
    RELAY_MAILBOXES,
    RELAY_REQUEST_MEMORY_S,
    RELAY_REQUESTS_BURST,
    RELAY_REQUESTS_PER_S,
)

__all__ = ["Limits", "RateLimit"]

_MAX_CLIENTS: Final = 10_000
"""Clients that are told apart; beyond, the one that was idle longest is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a relay takes; the defaults are in :mod:`dkey.lifecycle.policy`."""

    ttl_s: float = INVITATION_TTL_H * 3600.0
    body_bytes: int = RELAY_BODY_BYTES
    mailboxes: int = RELAY_MAILBOXES
    request_memory_s: float = RELAY_REQUEST_MEMORY_S
    burst: int = RELAY_REQUESTS_BURST
    per_s: float = RELAY_REQUESTS_PER_S
    creates_burst: int = RELAY_CREATES_BURST
    creates_per_s: float = RELAY_CREATES_PER_H / 3600.0

    def of_creates(self) -> Limits:
        """Return the limits whose requests are those for a new mailbox only."""
        return replace(self, burst=self.creates_burst, per_s=self.creates_per_s)


class RateLimit:
    """A token bucket for each client, kept in memory; used from one thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """Count one request; return 0, or the seconds until the next one passes."""
        client = _network(address)
        tokens, since_s = self._buckets.pop(client, (float(self._limits.burst), now_s))
        gained = max(0.0, now_s - since_s) * self._limits.per_s
        tokens = min(float(self._limits.burst), tokens + gained)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now_s)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._limits.per_s


def _network(address: str) -> str:
    """Return what one client has: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:  # else all of IPv4 would be one client
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
