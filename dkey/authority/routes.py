"""Which request stands for which command: one table for the server and for its client.

A route's path stands under ``/v1/vehicles/{vehicle}``. ``{item}`` in it is the share, card or key
that the command is about. Every other field of the command is in the body.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dkey.authority.json_form import to_json
from dkey.lifecycle.commands import (
    Accept,
    Activate,
    AddCard,
    Approve,
    BeginEpoch,
    ChangeOwner,
    Cleared,
    CloseAccount,
    Command,
    Decline,
    DelegatePause,
    EndOwner,
    EndPause,
    FactoryReset,
    Found,
    Hold,
    Immobilise,
    Invite,
    LiftVeto,
    Pause,
    PowerCycle,
    Release,
    ReleaseLost,
    ReportLost,
    Resume,
    Revoke,
    Suspend,
    Tick,
    Transfer,
    Unpair,
    Veto,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ROUTES", "Route", "route_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One request.

    Attributes:
        command: What it asks for.
        path: Below the vehicle.
        name: Operation id in the API document.
        tag: Group in the API document.
        item: Field of the command that ``{item}`` in the path gives; None without.
    """

    command: type[Command]
    path: str
    name: str
    tag: str
    item: str | None = None

    @property
    def body(self) -> tuple[str, ...]:
        """The fields of the command that are in the body."""
        return tuple(each.name for each in fields(self.command) if each.name != self.item)


def _route(
    command: type[Command], path: str, name: str, tag: str, item: str | None = None
) -> Route:
    return Route(command=command, path=path, name=name, tag=tag, item=item)


ROUTES: Final[tuple[Route, ...]] = (
    _route(Found, "/owner", "foundOwner", "owner"),
    _route(ChangeOwner, "/owner/change", "changeOwner", "owner"),
    _route(EndOwner, "/owner/end", "endOwner", "owner"),
    _route(Unpair, "/unpair", "unpairVehicle", "owner"),
    _route(Transfer, "/transfer", "transferVehicle", "owner"),
    _route(BeginEpoch, "/owner/epoch", "reportEpoch", "owner"),
    _route(Cleared, "/cleared", "reportCleared", "owner"),
    _route(Invite, "/shares", "inviteToShare", "shares"),
    _route(Accept, "/shares/{item}/accept", "acceptShare", "shares", "share_id"),
    _route(Approve, "/shares/{item}/approve", "approveShare", "shares", "share_id"),
    _route(Activate, "/shares/{item}/activate", "activateShare", "shares", "share_id"),
    _route(Decline, "/shares/{item}/decline", "declineShare", "shares", "share_id"),
    _route(Suspend, "/shares/{item}/suspend", "suspendShare", "shares", "item"),
    _route(Resume, "/shares/{item}/resume", "resumeShare", "shares", "item"),
    _route(Revoke, "/shares/{item}/revoke", "revokeShare", "shares", "item"),
    _route(Veto, "/veto", "vetoSharing", "shares"),
    _route(LiftVeto, "/veto/lift", "liftVeto", "shares"),
    _route(Pause, "/pause", "pauseVehicle", "pause"),
    _route(EndPause, "/pause/end", "endPause", "pause"),
    _route(DelegatePause, "/pause/delegate", "delegatePause", "pause"),
    _route(Hold, "/holds", "holdAccount", "holds"),
    _route(Release, "/holds/release", "releaseAccount", "holds"),
    _route(CloseAccount, "/accounts/close", "closeAccountHere", "holds"),
    _route(Immobilise, "/immobilise", "immobiliseVehicle", "holds"),
    _route(ReportLost, "/lost/{item}", "reportLost", "lost", "item"),
    _route(ReleaseLost, "/lost/{item}/release", "releaseLost", "lost", "item"),
    _route(AddCard, "/cards", "addCard", "cards"),
    _route(FactoryReset, "/factory-reset", "reportFactoryReset", "vehicle"),
    _route(PowerCycle, "/power-cycle", "reportPowerCycle", "vehicle"),
    _route(Tick, "/tick", "tickVehicle", "vehicle"),
)
"""Every command of :mod:`dkey.lifecycle.commands`, once."""

_BY_COMMAND: Final[Mapping[type[Command], Route]] = MappingProxyType(
    {route.command: route for route in ROUTES}
)


def route_of(command: Command) -> tuple[str, dict[str, Any]]:
    """Return the path below the vehicle and the body that stand for a command."""
    route = _BY_COMMAND[type(command)]
    form = to_json(command)
    path = route.path
    if route.item is not None:
        path = path.replace("{item}", form[route.item])
    return path, {name: form[name] for name in route.body}
