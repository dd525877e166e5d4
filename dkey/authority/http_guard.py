"""What stands before the application: the size of a body and the rate of a peer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Guard", "Limits"]

_PEERS: Final = 4096
"""Peers whose rate is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one peer may ask for (ours).

    Attributes:
        body: Bytes of a request body.
        per_s: Requests in a second, in the long run.
        burst: Requests at once.
    """

    body: int = 16_384
    per_s: float = 100.0
    burst: float = 400.0


class Guard:
    """ASGI middleware that answers 413 and 429 in the shape of every refusal.

    Args:
        app: What is guarded.
        limits: How much one peer may ask for.
        now: A monotonic clock in seconds.
    """

    def __init__(self, app: Any, limits: Limits, now: Callable[[], float]) -> None:
        self._app = app
        self._limits = limits
        self._now = now
        self._left: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._admitted((scope.get("client") or ("?",))[0]):
            await _answer(send, 429, "TOO_MANY", "too many requests", "wait a second")
            return
        body, fits = await self._body(receive)
        if not fits:
            text = f"the body is over {self._limits.body} bytes"
            await _answer(send, 413, "TOO_LARGE", text, "send less")
            return
        await self._app(scope, _Replay(body, receive), send)

    def _admitted(self, peer: str) -> bool:
        now_s, limits = self._now(), self._limits
        left, since_s = self._left.pop(peer, (limits.burst, now_s))
        left = min(limits.burst, left + (now_s - since_s) * limits.per_s)
        while len(self._left) >= _PEERS:
            del self._left[next(iter(self._left))]  # the one that asked longest ago
        self._left[peer] = (max(0.0, left - 1), now_s)
        return left >= 1

    async def _body(self, receive: Any) -> tuple[bytes, bool]:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"", True  # the peer left
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limits.body:
                return b"", False
            if not message.get("more_body"):
                return b"".join(parts), True


class _Replay:
    """Gives the body that was read already, then what comes after it."""

    def __init__(self, body: bytes, receive: Any) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Any:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()


async def _answer(send: Any, status: int, code: str, why: str, hint: str) -> None:
    body = json.dumps({"ok": False, "code": code, "why": why, "try": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
