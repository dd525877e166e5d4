"""A client of the relay: one method for each request, over HTTP (specs/relay.md §5).

It carries sealed payloads only; sealing and opening belong to its caller, and so does the secret
of an invitation, which never goes to the relay.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from dkey.errors import LinkError, LinkReason, LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.relay.messages import Create, Opened, Payload, Shown, Update, parse_mailbox_id

if TYPE_CHECKING:
    from types import TracebackType

    from dkey.crypto.entropy import Entropy

__all__ = ["RelayClient"]

_TRIES: Final = 3
_ANSWER_S: Final = 10.0
_ANSWER_MAX: Final = 262_144
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class RelayClient:
    """One device's way to one relay; ``with`` closes it.

    A request that got no answer is sent again, at most twice, and only with the same
    Mailbox-Request-ID, so that the relay carries it out once.

    Args:
        base: Address of the relay, such as ``https://relay.example``; https unless it is loopback.
        claim: This device's claim: a secret UUID, one for each mailbox.
        entropy: Where request ids come from.
        attestation: What the device attests of itself; the relay takes it as it is.
        http: Another client to send through, as with a private root certificate. Stays open.

    Raises:
        LocalFault: The address is not https.
    """

    def __init__(
        self,
        base: str,
        *,
        claim: UUID,
        entropy: Entropy,
        attestation: str | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        parts = urlsplit(base)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise LocalFault("a relay is reached over https", hint="give https://HOST")
        self._base = base.rstrip("/")
        self._entropy = entropy
        self._headers = {"Mailbox-Device-Claim": str(claim), "Accept": "application/json"}
        if attestation is not None:
            self._headers["Mailbox-Device-Attestation"] = attestation
        self._own = None if http else httpx.Client(timeout=_ANSWER_S, follow_redirects=False)
        self._http = http or self._own

    def close(self) -> None:
        """Close the connections that this client opened. May be called twice."""
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def create(self, message: Create, *, request_id: UUID | None = None) -> UUID:
        """Leave a message in a new mailbox and return the mailbox's identifier.

        Raises:
            PolicyRefusal: TOO_SOON after too many requests.
            LinkError: The relay is away, full, or does not take the message.
        """
        answer = self._ask("POST", "", message.to_bytes(), request_id=request_id)
        try:
            return parse_mailbox_id(json.loads(answer)["mailboxIdentifier"])
        except (ValueError, KeyError, TypeError, AttributeError, WireError) as exc:
            raise _strange() from exc

    def read(self, mailbox: UUID) -> Opened:
        """Return what lies in the mailbox; the first reader becomes its receiver.

        Raises:
            PolicyRefusal: KEY_UNKNOWN: no such mailbox (any more); NOT_AUTHORISED: it is bound to
                another device; TOO_SOON.
            LinkError: The relay is away.
        """
        try:
            return Opened.parse(self._ask("POST", f"/{mailbox}", b""))
        except WireError as exc:
            raise _strange() from exc

    def display(self, mailbox: UUID) -> Shown:
        """Return what anybody may see; binds nothing. Raises as :meth:`read`."""
        try:
            return Shown.parse(self._ask("GET", f"/{mailbox}", b""))
        except WireError as exc:
            raise _strange() from exc

    def update(self, mailbox: UUID, payload: Payload, *, request_id: UUID | None = None) -> None:
        """Put a message in the place of the last one. Raises as :meth:`read`."""
        body = Update(payload=payload).to_bytes()
        self._ask("PUT", f"/{mailbox}", body, request_id=request_id)

    def delete(self, mailbox: UUID, *, request_id: UUID | None = None) -> None:
        """Delete the mailbox, as after redemption. Raises as :meth:`read`."""
        self._ask("DELETE", f"/{mailbox}", b"", request_id=request_id)

    def relinquish(self, mailbox: UUID, *, request_id: UUID | None = None) -> None:
        """Let another device become the receiver. Raises as :meth:`read`."""
        self._ask("PATCH", f"/{mailbox}", b"", request_id=request_id)

    def _ask(self, method: str, path: str, body: bytes, *, request_id: UUID | None = None) -> bytes:
        number = request_id or uuid.UUID(bytes=self._entropy.random(16), version=4)
        headers = {**self._headers, "Mailbox-Request-ID": str(number)}
        if body:
            headers["Content-Type"] = "application/json"
        for left in reversed(range(_TRIES)):
            try:
                return self._send(method, path, body, headers)
            except LinkError as exc:
                if not exc.transient or not left:
                    raise
        raise AssertionError  # the last try returns or raises

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        assert self._http is not None
        try:
            with self._http.stream(
                method, f"{self._base}/v1/m{path}", content=body, headers=headers
            ) as answer:
                found = bytearray()
                for chunk in answer.iter_bytes():
                    found += chunk
                    if len(found) > _ANSWER_MAX:
                        raise _strange()
        except httpx.TransportError as exc:
            raise _transport_error(exc) from exc
        _check_status(answer)
        return bytes(found)


def _transport_error(exc: httpx.TransportError) -> LinkError:
    if isinstance(exc, httpx.ConnectError):
        reason, text = LinkReason.ABSENT, "the relay cannot be reached"
    elif isinstance(exc, httpx.TimeoutException):
        reason, text = LinkReason.TIMEOUT, "the relay did not answer in time"
    else:
        reason, text = LinkReason.LOST, "the connection to the relay broke off"
    return LinkError(reason, text, hint="check the network and the relay's address", transient=True)


def _check_status(answer: httpx.Response) -> None:
    """Raise what a status means; only 2xx passes."""
    if answer.is_success:
        return
    match answer.status_code:
        case 401 | 403:
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                "the mailbox is bound to another device, or does not allow this",
                hint="ask the sender for a new invitation",
            )
        case 404:
            raise PolicyRefusal(
                RefusalCode.KEY_UNKNOWN,
                "there is no such mailbox: it has expired, was redeemed or never was",
                hint="ask the sender for a new invitation",
            )
        case 429:
            raise PolicyRefusal(
                RefusalCode.TOO_SOON,
                "too many requests to the relay",
                remaining_s=_seconds(answer.headers.get("Retry-After")),
                hint="wait and try again",
            )
        case status if status >= 500:
            # Not transient: asking a full or failing relay again at once would not help it.
            raise LinkError(LinkReason.BUSY, f"the relay answers {status}", hint="try again later")
        case status:
            raise LinkError(
                LinkReason.PROTOCOL,
                f"the relay refuses the request with {status}",
                hint="check size, form and expiration of the message",
            )


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdigit() else None


def _strange() -> LinkError:
    return LinkError(
        LinkReason.PROTOCOL,
        "the relay's answer is not one of a relay",
        hint="check the relay's address",
    )
