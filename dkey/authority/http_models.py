"""The schemas of the API: one for each command, made from its type, and those of the answers.

Names, sizes and enums come from :mod:`dkey.lifecycle.commands`, so that the API document cannot
differ from what is carried out. Annotations here are read at run time.
"""

from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model

from dkey.authority.accounts import ACCOUNT, Purpose
from dkey.authority.json_form import SIZES, field_types
from dkey.authority.routes import Route
from dkey.authority.vehicles import PROFILE_FLAGS
from dkey.lifecycle.telematic import TelematicVerb

__all__ = [
    "ERRORS",
    "AccountForm",
    "AccountId",
    "Actor",
    "ActorForm",
    "BookingList",
    "ClockForm",
    "ConsentForm",
    "ConsentKept",
    "DisputeForm",
    "Done",
    "Gone",
    "HealthAnswer",
    "HexId",
    "KeyListAnswer",
    "LinkForm",
    "NumberAnswer",
    "OffersForm",
    "OutageForm",
    "OutcomeAnswer",
    "PublicKeyAnswer",
    "RecordList",
    "Refusal",
    "ServiceModeForm",
    "TokenAnswer",
    "UnitAnswer",
    "UnitForm",
    "VehicleForm",
    "command_model",
]

_MAX_INT: Final = 2**53 - 1
"""Whole numbers that every JSON parser keeps."""
_EXAMPLES: Final = {
    "share_id": "5f0c2a9d61b34e7788a1d2c3e4f50617",
    "item": "5f0c2a9d61b34e7788a1d2c3e4f50617",
    "card": "a1b2c3d4e5f60718293a4b5c6d7e8f90",
    "key_x": "3c" * 32,
    "account": "friend@example.org",
    "provider": "wash@example.org",
    "actor": "owner@example.org",
    "not_before_s": 1_800_000_000,
    "not_after_s": 1_831_536_000,
    "begins_s": 1_800_000_000,
    "ends_s": 1_800_007_200,
    "booking_id": "B-2027-0001",
    "purpose": "car wash at the office",
    "days": 30,
}
_ACTOR: Final = rf"^(@authority|@dealer|@vehicle|{ACCOUNT})$"

Actor = Annotated[
    str,
    Field(
        pattern=_ACTOR,
        max_length=200,
        description="Account of who asks, or @authority, @dealer, @vehicle.",
        examples=["owner@example.org"],
    ),
]
AccountId = Annotated[
    str,
    Field(
        pattern=f"^{ACCOUNT}$",
        max_length=200,
        description="Account id: a lower-case e-mail address.",
        examples=["friend@example.org"],
    ),
]
HexId = Annotated[str, Field(pattern="^[0-9a-f]{32}$", examples=[_EXAMPLES["share_id"]])]
Text = Annotated[str, Field(max_length=200)]
Seconds = Annotated[int, Field(ge=0, le=_MAX_INT)]


class Form(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class ActorForm(Form):
    """Who asks."""

    actor: Actor


class AccountForm(Form):
    """A new account."""

    account: AccountId
    sms: Annotated[str, Field(max_length=32)] | None = None
    app: bool = True
    offers: bool = False


class ConsentForm(Form):
    """A consent, given or withdrawn."""

    actor: Actor
    purpose: Purpose
    version: Annotated[str, Field(min_length=1, max_length=64, examples=["2025-02-13"])] = "1"
    channel: Annotated[str, Field(min_length=1, max_length=64, examples=["APP"])] = "APP"


class VehicleForm(Form):
    """A vehicle to serve."""

    actor: Actor
    vehicle: HexId
    vin: Annotated[str, Field(max_length=32, examples=["KNA12345678901234"])]
    market: Annotated[str, Field(max_length=8, examples=["KR"])]
    profile: Annotated[str, Field(max_length=32, examples=[next(iter(PROFILE_FLAGS))])]
    public_key: Annotated[str, Field(pattern="^[0-9a-f]{130}$")]
    service_mode: bool = False


class ServiceModeForm(Form):
    """Service mode, on or off."""

    actor: Actor
    on: bool


class OutageForm(Form):
    """The outage switch: a reason where it goes on, the actions taken where it goes off."""

    actor: Actor
    on: bool
    text: Text = ""


class OffersForm(Form):
    """Whether somebody wants advertisements; security notices have no switch."""

    actor: Actor
    wanted: bool


class ClockForm(Form):
    """Seconds that the fake clock moves on."""

    actor: Actor
    advance_s: Annotated[int, Field(ge=0, le=10 * 366 * 86_400)]


class DisputeForm(Form):
    """A dispute about a person or a vehicle."""

    actor: Actor
    reason: Text
    account: AccountId | None = None
    vehicle: HexId | None = None


class LinkForm(Form):
    """A telematic unit that a dealer fitted."""

    actor: Actor
    hardware_id: Annotated[str, Field(min_length=1, max_length=64)]
    pro_hardware: bool = False
    expires_s: Seconds | None = None


class UnitForm(Form):
    """A request to a telematic unit."""

    actor: Actor
    verb: TelematicVerb | None = None
    confirmed: bool = False
    valid: bool | None = None


class Done(BaseModel):
    """It was done."""

    ok: Literal[True] = True


class TokenAnswer(Done):
    """A bearer token; it is shown this once."""

    token: str


class OutcomeAnswer(Done):
    """A command was carried out, or waits for the end of an outage."""

    queued: bool
    number: int
    effects: list[dict[str, Any]]


class NumberAnswer(Done):
    """The number of what was made."""

    number: int


class Gone(Done):
    """How many audit entries were removed."""

    removed: int


class ConsentKept(Done):
    """What a person agrees to after this."""

    purpose: Purpose


class PublicKeyAnswer(Done):
    """The key that the authority's statements are verified with."""

    public_key: Annotated[str, Field(pattern="^04[0-9a-f]{128}$")]


class HealthAnswer(Done):
    """How the authority is."""

    time_s: int
    outage: bool
    waiting: int
    vehicles: int
    entries: int


class KeyEntryAnswer(BaseModel):
    """One key."""

    item: str
    role: str
    permission: str
    state: str
    account: str | None
    slot: int
    not_after_s: int | None
    booking_id: str | None


class KeyListAnswer(Done):
    """The keys that the actor may see, and how many there are."""

    count: int
    keys: list[KeyEntryAnswer]
    linked: bool
    half_removed: str | None
    outage: bool


class BookedAnswer(BaseModel):
    """One booking."""

    share_id: str
    booking_id: str
    provider: str
    purpose: str
    begins_s: int
    ends_s: int
    state: str
    ordered_by: str


class BookingList(Done):
    """Bookings with the state of their keys."""

    bookings: list[BookedAnswer]
    outage: bool


class RecordList(Done):
    """Records, oldest first."""

    records: list[dict[str, Any]]


class UnitAnswer(Done):
    """A telematic unit."""

    profile: str
    hardware_id: str
    pro_hardware: bool
    market: str
    state: str
    since_s: int
    used_s: int
    expires_s: int | None
    entitled: bool


class Refusal(BaseModel):
    """Why not: a code for programs, why and what to try for people."""

    model_config = ConfigDict(populate_by_name=True)

    ok: Literal[False] = False
    code: Annotated[str, Field(examples=["SHARE_LIMIT"])]
    why: str
    hint: Annotated[str, Field(alias="try")]
    remaining_s: float | None = None


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Refusal, "description": "Not JSON."},
    401: {"model": Refusal, "description": "The token is not the actor's."},
    403: {"model": Refusal, "description": "The actor may not do this."},
    404: {"model": Refusal, "description": "There is no such thing here."},
    409: {"model": Refusal, "description": "A rule says no; `code` names it."},
    413: {"model": Refusal, "description": "The body is too large."},
    422: {"model": Refusal, "description": "A field is missing or not of its form."},
    429: {"model": Refusal, "description": "Too many requests."},
}
"""What every request may be answered besides."""


def command_model(route: Route) -> type[BaseModel]:
    """Return the body of a route: the fields of its command that are not in the path."""
    kind: Any = route.command
    return _model(kind, f"{route.command.__name__}Form", leave_out=route.item)


@cache
def _model(kind: type, name: str, *, leave_out: str | None = None) -> type[BaseModel]:
    types = field_types(kind)
    parts: dict[str, Any] = {}
    for each in fields(kind):
        if each.name != leave_out:
            default = ... if each.default is MISSING else each.default
            parts[each.name] = (_type(each.name, types[each.name]), default)
    text = (kind.__doc__ or "").partition("\n")[0]
    return create_model(name, __base__=Form, __doc__=text, **parts)


def _type(name: str, kind: Any) -> Any:  # noqa: PLR0911 - one row for each kind
    if isinstance(kind, UnionType):
        inner = next(each for each in get_args(kind) if each is not NoneType)
        return _type(name, inner) | None
    if is_dataclass(kind) and isinstance(kind, type):
        return _model(kind, kind.__name__)
    if isinstance(kind, type) and issubclass(kind, Enum | bool):
        return kind
    how: dict[str, Any] = {"examples": [_EXAMPLES[name]]} if name in _EXAMPLES else {}
    if kind is bytes:
        return Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * SIZES[name]}}}$", **how)]
    if kind is int:
        return Annotated[int, Field(ge=0, le=_MAX_INT, **how)]
    if name == "actor":
        return Actor
    if name in {"account", "provider"}:
        return AccountId
    return Annotated[str, Field(max_length=200, **how)]
