"""What the relay's clients send and get: JSON bodies, strictly parsed (specs/relay.md §2).

Nothing that goes wrong here repeats what was received: an error must not carry a payload.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import RFC_4122, UUID

from dkey.errors import WireError

__all__ = [
    "RIGHTS",
    "Create",
    "Display",
    "Opened",
    "Payload",
    "Shown",
    "Update",
    "parse_device_claim",
    "parse_expiration",
    "parse_mailbox_id",
    "to_timestamp",
]

_CLAUSE: Final = "specs/relay.md §2"
_ALGORITHMS: Final = ("AEAD_AES_128_GCM", "AEAD_AES_256_GCM")
_IV_AND_TAG: Final = 12 + 16
RIGHTS: Final = ("R", "RW", "RD", "RWD")
"""What a receiver may be given: read, write and delete, in this order."""
_FULL: Final = "RWD"
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_TITLE_MAX: Final = 120
_DESCRIPTION_MAX: Final = 500
_URL_MAX: Final = 1000


def _refuse(text: str) -> WireError:
    return WireError(text, clause=_CLAUSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A sealed message: the AEAD's name, and ``IV (12) || ciphertext || tag (16)``."""

    algorithm: str
    data: bytes

    @classmethod
    def from_json(cls, value: Any) -> Payload:
        """Take ``{"type": …, "data": base64}``.

        Raises:
            WireError: Another form, another algorithm, or too short to be sealed.
        """
        fields = _fields(value, "payload", required={"type", "data"})
        if fields["type"] not in _ALGORITHMS:
            raise _refuse(f"the payload's type is neither {' nor '.join(_ALGORITHMS)}")
        text = _text(fields["data"], "payload.data")
        try:
            data = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error) as exc:
            raise _refuse("payload.data is not base64") from exc
        if base64.b64encode(data).decode() != text:
            raise _refuse("payload.data is not canonical base64")
        if len(data) <= _IV_AND_TAG:
            raise _refuse(f"payload.data has no more than {_IV_AND_TAG} bytes: nothing is sealed")
        return cls(algorithm=fields["type"], data=data)

    def to_json(self) -> dict[str, str]:
        """Return the JSON object."""
        return {"type": self.algorithm, "data": base64.b64encode(self.data).decode()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Display:
    """What anybody who has the link may see: no secret, and nothing that names a person."""

    title: str
    description: str
    image_url: str | None = None

    @classmethod
    def from_json(cls, value: Any) -> Display:
        """Take ``{"title", "description", "imageURL"?}``.

        Raises:
            WireError: Another form, too long, or an image that is not at an https address.
        """
        fields = _fields(
            value,
            "displayInformation",
            required={"title", "description"},
            optional={"imageURL"},
        )
        url = fields.get("imageURL")
        if url is not None:
            _check_https(_text(url, "imageURL", _URL_MAX))
        return cls(
            title=_text(fields["title"], "title", _TITLE_MAX),
            description=_text(fields["description"], "description", _DESCRIPTION_MAX),
            image_url=url,
        )

    def to_json(self) -> dict[str, str]:
        """Return the JSON object."""
        image = {"imageURL": self.image_url} if self.image_url is not None else {}
        return {"title": self.title, "description": self.description, **image}


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """The body of ``POST /v1/m``.

    Attributes:
        rights: What the receiver may do, one of :data:`RIGHTS`; the sender may do all.
        expires_s: Seconds since 1970 at which the relay forgets it, whole.
    """

    payload: Payload
    expires_s: int
    rights: str = _FULL
    display: Display | None = None

    @classmethod
    def parse(cls, data: bytes) -> Create:
        """Raise WireError unless ``data`` is exactly this message."""
        fields = _fields(
            _json(data),
            "the request",
            required={"payload", "expiration"},
            optional={"accessRights", "displayInformation"},
        )
        rights = fields.get("accessRights", _FULL)
        if rights not in RIGHTS:
            raise _refuse(f"accessRights is none of {', '.join(RIGHTS)}")
        display = fields.get("displayInformation")
        return cls(
            payload=Payload.from_json(fields["payload"]),
            expires_s=parse_expiration(fields["expiration"]),
            rights=rights,
            display=None if display is None else Display.from_json(display),
        )

    def to_bytes(self) -> bytes:
        """Return the body."""
        value: dict[str, Any] = {
            "payload": self.payload.to_json(),
            "accessRights": self.rights,
            "expiration": to_timestamp(self.expires_s),
        }
        if self.display is not None:
            value["displayInformation"] = self.display.to_json()
        return json.dumps(value).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The body of ``PUT /v1/m/{id}``: the message that takes the place of the last one."""

    payload: Payload

    @classmethod
    def parse(cls, data: bytes) -> Update:
        """Raise WireError unless ``data`` is exactly this message."""
        fields = _fields(_json(data), "the request", required={"payload"})
        return cls(payload=Payload.from_json(fields["payload"]))

    def to_bytes(self) -> bytes:
        """Return the body."""
        return json.dumps({"payload": self.payload.to_json()}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The answer to ``POST /v1/m/{id}``: what lies in the mailbox, and until when."""

    payload: Payload
    expires_s: int

    @classmethod
    def parse(cls, data: bytes) -> Opened:
        """Raise WireError unless ``data`` is exactly this message."""
        fields = _fields(_json(data), "the answer", required={"payload", "expiration"})
        return cls(
            payload=Payload.from_json(fields["payload"]),
            expires_s=parse_expiration(fields["expiration"]),
        )

    def to_bytes(self) -> bytes:
        """Return the body."""
        value = {"payload": self.payload.to_json(), "expiration": to_timestamp(self.expires_s)}
        return json.dumps(value).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The answer to ``GET /v1/m/{id}``: what anybody who has the link may see."""

    display: Display | None
    expires_s: int

    @classmethod
    def parse(cls, data: bytes) -> Shown:
        """Raise WireError unless ``data`` is exactly this message."""
        fields = _fields(
            _json(data), "the answer", required={"expiration"}, optional={"displayInformation"}
        )
        display = fields.get("displayInformation")
        return cls(
            display=None if display is None else Display.from_json(display),
            expires_s=parse_expiration(fields["expiration"]),
        )

    def to_bytes(self) -> bytes:
        """Return the body."""
        value: dict[str, Any] = {"expiration": to_timestamp(self.expires_s)}
        if self.display is not None:
            value["displayInformation"] = self.display.to_json()
        return json.dumps(value).encode()


def parse_device_claim(text: str, name: str) -> UUID:
    """Take a UUID in its canonical form, of any version; ``name`` is the header's.

    Raises:
        WireError: Another form.
    """
    try:
        found = UUID(text)
    except ValueError as exc:
        raise _refuse(f"{name} is not a UUID") from exc
    if str(found) != text.lower():
        raise _refuse(f"{name} is not a UUID in its canonical form")
    return found


def parse_mailbox_id(text: str) -> UUID:
    """Take the identifier of a mailbox: a UUID of version 4, in lower case.

    Raises:
        WireError: Another form.
    """
    found = parse_device_claim(text, "the mailbox identifier")
    if str(found) != text or found.version != 4 or found.variant != RFC_4122:
        raise _refuse("a mailbox identifier is a UUID of version 4")
    return found


def parse_expiration(value: Any) -> int:
    """Take ``YYYY-MM-DDThh:mm:ssZ`` and return seconds since 1970.

    Raises:
        WireError: Another form.
    """
    text = _text(value, "expiration")
    if not _TIMESTAMP.fullmatch(text):
        raise _refuse("expiration is not YYYY-MM-DDThh:mm:ssZ")
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError as exc:
        raise _refuse("expiration is no such time") from exc


def to_timestamp(at_s: float) -> str:
    """Return seconds since 1970 as ``YYYY-MM-DDThh:mm:ssZ``."""
    return datetime.fromtimestamp(int(at_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---- JSON, strictly ------------------------------------------------------------------------------


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_no_double)
    except (ValueError, RecursionError) as exc:
        raise _refuse("the body is not JSON in UTF-8") from exc


def _no_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _fields(
    value: Any, what: str, *, required: set[str], optional: set[str] | None = None
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(f"{what} is not an object")
    if missing := required - value.keys():
        raise _refuse(f"{what} has no {', '.join(sorted(missing))}")
    if value.keys() - required - (optional or set()):
        raise _refuse(f"{what} has a field that it should not have")
    return value


def _text(value: Any, what: str, limit: int | None = None) -> str:
    if not isinstance(value, str) or not value:
        raise _refuse(f"{what} is not a text")
    if limit is not None and len(value) > limit:
        raise _refuse(f"{what} is longer than {limit} characters")
    if any(ord(each) < 32 or 0xD800 <= ord(each) < 0xE000 for each in value):
        raise _refuse(f"{what} has a character that is not text")
    return value


def _check_https(url: str) -> None:
    try:
        parts = urlsplit(url)
        well = parts.scheme == "https" and bool(parts.hostname) and parts.username is None
    except ValueError as exc:
        raise _refuse("imageURL is not an address") from exc
    if not well:
        raise _refuse("imageURL is not an https address")
