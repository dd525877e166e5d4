"""How ``dkey key`` speaks to a relay: gives the agent one mailbox of its client."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from dkey.errors import LocalFault

if TYPE_CHECKING:
    from dkey.agent.key_records import Post

__all__ = ["mailbox_of_url", "relayed"]

_URL: Final = re.compile(r"(.+)/v1/m/([0-9a-f-]{36})")


class _Mailbox:
    """One mailbox, with envelopes in place of the relay's payloads."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def create(self, envelope: bytes, *, expires_s: int, request: bytes) -> bytes:
        """Leave the first message in a new mailbox; return its identifier."""
        from dkey.relay.messages import Create, Display  # noqa: PLC0415

        display = Display(title="A key", description="Open it with: dkey key accept")
        message = Create(payload=_payload(envelope), expires_s=expires_s, display=display)
        number = UUID(bytes=request, version=4)
        return bytes(self._client.create(message, request_id=number).bytes)

    def read(self, mailbox: bytes) -> bytes:
        """Return the envelope that lies there."""
        payload = self._client.read(UUID(bytes=mailbox)).payload
        return json.dumps(payload.to_json(), separators=(",", ":")).encode("ascii")

    def update(self, mailbox: bytes, envelope: bytes, *, request: bytes) -> None:
        """Put an envelope in the place of the last one."""
        number = UUID(bytes=request, version=4)
        self._client.update(UUID(bytes=mailbox), _payload(envelope), request_id=number)

    def delete(self, mailbox: bytes, *, request: bytes) -> None:
        """Delete the mailbox."""
        number = UUID(bytes=request, version=4)
        self._client.delete(UUID(bytes=mailbox), request_id=number)


def _payload(envelope: bytes) -> Any:
    from dkey.relay.messages import Payload  # noqa: PLC0415

    return Payload.from_json(json.loads(envelope))


@contextlib.contextmanager
def relayed(post: Post, entropy: Any) -> Iterator[Any]:
    """Give the mailbox of an exchange."""
    from dkey.relay.client import RelayClient  # noqa: PLC0415

    with RelayClient(post.base, claim=UUID(bytes=post.claim), entropy=entropy) as client:
        yield _Mailbox(client)


def mailbox_of_url(url: str) -> tuple[str, bytes]:
    """Return the relay and the mailbox that a link names.

    Raises:
        LocalFault: It is no link to a mailbox.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise LocalFault("this is no link to a mailbox", hint="open the whole link that was sent")
    try:
        return found[1], UUID(found[2]).bytes
    except ValueError as exc:
        raise LocalFault("this is no link to a mailbox") from exc
