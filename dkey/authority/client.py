"""An authority behind HTTP, with the methods of the one in process: agents take either.

A client knows the tokens of those that it speaks for: it is given some, and keeps the ones that it
is handed when it registers accounts and vehicles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx

from dkey.authority.accounts import UnknownError
from dkey.authority.audit import AuditEntry, Basis
from dkey.authority.core import OutageError
from dkey.authority.http_access import UnauthenticatedError
from dkey.authority.notifications import Channel, Notice, Topic
from dkey.authority.outage import Incident, Waiting
from dkey.authority.routes import route_of
from dkey.authority.values import Booked, Health, KeyEntry, KeyList, Outcome
from dkey.crypto.p256 import PublicKey
from dkey.errors import LinkError, LinkReason, LocalFault, PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.account import account_form
from dkey.lifecycle.commands import AUTHORITY, DEALER, VEHICLE
from dkey.lifecycle.telematic import TelematicProfile, TelematicState, TelematicUnit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from dkey.authority.accounts import Purpose
    from dkey.lifecycle.commands import Command
    from dkey.lifecycle.telematic import TelematicVerb

__all__ = ["AuthorityClient"]

_ANSWER_S: Final = 10.0
CLAUSE: Final = "specs/authority.md §2"


class AuthorityClient:
    """Speaks to one authority.

    Args:
        url: Such as ``http://127.0.0.1:8460``.
        tokens: Account, or ``@authority``, ``@dealer``, ``@vehicle``, to its bearer token.
        transport: How requests travel; None for the network.
    """

    def __init__(
        self,
        url: str,
        tokens: Mapping[str, str] | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=url, timeout=_ANSWER_S, transport=transport, trust_env=False
        )
        self._tokens = dict(tokens or {})

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- keys ---------------------------------------------------------------------------------

    def execute(self, vehicle: bytes, command: Command) -> Outcome:
        """Ask for a command.

        Raises:
            PolicyRefusal: A rule says no.
            UnknownError: The vehicle, or an account in the command, is not registered.
            LinkError: No answer; whether it was carried out is not known.
        """
        path, body = route_of(command)
        form = self._post(f"/v1/vehicles/{vehicle.hex()}{path}", command.actor, body, vehicle)
        return Outcome(queued=form["queued"], number=form["number"], effects=tuple(form["effects"]))

    def keys(self, vehicle: bytes, actor: str) -> KeyList:
        """Return the keys that the actor may see."""
        form = self._get(f"/v1/vehicles/{vehicle.hex()}/keys", actor, vehicle=vehicle)
        entries = tuple(KeyEntry(**entry) for entry in form.pop("keys"))
        return KeyList(**form, keys=entries)

    def bookings(self, vehicle: bytes, actor: str) -> list[Booked]:
        """Return the bookings that the actor may see."""
        form = self._get(f"/v1/vehicles/{vehicle.hex()}/bookings", actor, vehicle=vehicle)
        return [Booked(**each) for each in form["bookings"]]

    def withdrawal_list(self, vehicle: bytes, actor: str = AUTHORITY) -> bytes:
        """Return the newest signed withdrawal list."""
        path = f"/v1/vehicles/{vehicle.hex()}/withdrawal-list"
        answer = self._send("GET", path, actor, vehicle=vehicle, params={"actor": actor})
        return answer.content

    @property
    def public_key(self) -> PublicKey:
        """What the authority's statements are verified with."""
        form = self._json(self._send("GET", "/v1/public-key", None))
        return PublicKey.parse(bytes.fromhex(form["public_key"]))

    def health(self) -> Health:
        """Return how the authority is."""
        return Health(**self._json(self._send("GET", "/v1/health", None)))

    # --- people -------------------------------------------------------------------------------

    def register_account(
        self, account: str, *, sms: str | None = None, app: bool = True, offers: bool = False
    ) -> str:
        """Make an account; keep and return its token."""
        account = account_form(account)
        body = {"account": account, "sms": sms, "app": app, "offers": offers}
        token: str = self._post("/v1/accounts", None, body)["token"]
        self._tokens[account] = token
        return token

    def close_account(self, actor: str, account: str) -> None:
        """End an account."""
        self._post(f"/v1/accounts/{account}/close", actor, {"actor": actor})

    def record_consent(
        self, actor: str, account: str, purpose: Purpose, *, version: str, channel: str
    ) -> None:
        """Record that somebody agreed."""
        body = {"actor": actor, "purpose": purpose, "version": version, "channel": channel}
        self._post(f"/v1/accounts/{account}/consents", actor, body)

    def withdraw_consent(self, actor: str, account: str, purpose: Purpose) -> int:
        """Take a consent back; return how many audit entries went with it."""
        body = {"actor": actor, "purpose": purpose}
        form = self._post(f"/v1/accounts/{account}/consents/withdraw", actor, body)
        return int(form["removed"])

    def set_offers(self, actor: str, account: str, *, wanted: bool) -> None:
        """Switch advertisements on or off."""
        self._post(f"/v1/accounts/{account}/offers", actor, {"actor": actor, "wanted": wanted})

    def notices(self, account: str, actor: str | None = None) -> list[Notice]:
        """Return every notice that was sent to somebody."""
        path = f"/v1/accounts/{account}/notices"
        records = self._get(path, actor or account)["records"]
        return [
            Notice(
                **{
                    **each,
                    "vehicle": _octets(each["vehicle"]),
                    "kind": Topic(each["kind"]),
                    "channel": Channel(each["channel"]),
                }
            )
            for each in records
        ]

    def export(self, account: str, actor: str | None = None) -> dict[str, object]:
        """Return all that is kept about a person."""
        form = self._get("/v1/audit/export", actor or account, account=account)
        exported: dict[str, object] = form["records"][0]
        return exported

    def erase(self, actor: str, account: str) -> int:
        """Forget a person; return how many audit entries went."""
        path = f"/v1/persons/{account}"
        answer = self._send("DELETE", path, actor, params={"actor": actor})
        return int(self._json(answer)["removed"])

    # --- the authority's own ------------------------------------------------------------------

    def register_vehicle(
        self,
        vehicle: bytes,
        *,
        vin: str,
        market: str,
        profile: str,
        public_key: bytes,
        service_mode: bool = False,
    ) -> str:
        """Take in a vehicle; keep and return its token."""
        body = {
            "actor": AUTHORITY,
            "vehicle": vehicle.hex(),
            "vin": vin,
            "market": market,
            "profile": profile,
            "public_key": public_key.hex(),
            "service_mode": service_mode,
        }
        token: str = self._post("/v1/vehicles", AUTHORITY, body)["token"]
        self._tokens[vehicle.hex()] = token
        return token

    def set_service_mode(self, vehicle: bytes, *, on: bool) -> None:
        """Record that a vehicle is in service mode, or not any more."""
        path = f"/v1/vehicles/{vehicle.hex()}/service-mode"
        self._post(path, AUTHORITY, {"actor": AUTHORITY, "on": on})

    def begin_outage(self, reason: str) -> None:
        """Go out of service: commands wait from here on."""
        self._post("/v1/outage", AUTHORITY, {"actor": AUTHORITY, "on": True, "text": reason})

    def end_outage(self, actions: str) -> list[Waiting]:
        """Come back; return the results of what waited, without the commands."""
        body = {"actor": AUTHORITY, "on": False, "text": actions}
        return [_waiting(each) for each in self._post("/v1/outage", AUTHORITY, body)["records"]]

    def queue(self) -> list[Waiting]:
        """Return what waits or waited, without the commands."""
        return [_waiting(each) for each in self._get("/v1/queue", AUTHORITY)["records"]]

    def incidents(self) -> list[Incident]:
        """Return every outage."""
        return [Incident(**each) for each in self._get("/v1/incidents", AUTHORITY)["records"]]

    def open_dispute(
        self, reason: str, *, account: str | None = None, vehicle: bytes | None = None
    ) -> int:
        """Keep all entries about a person or a vehicle until the dispute ends."""
        body = {
            "actor": AUTHORITY,
            "reason": reason,
            "account": account,
            "vehicle": vehicle.hex() if vehicle else None,
        }
        return int(self._post("/v1/disputes", AUTHORITY, body)["number"])

    def end_dispute(self, number: int) -> None:
        """End a dispute."""
        self._post(f"/v1/disputes/{number}/end", AUTHORITY, {"actor": AUTHORITY})

    def audit_log(self, vehicle: bytes) -> list[AuditEntry]:
        """Return the audit entries of a vehicle, with pseudonyms."""
        records = self._get(f"/v1/vehicles/{vehicle.hex()}/audit", AUTHORITY)["records"]
        return [
            AuditEntry(
                **{
                    **each,
                    "vehicle": _octets(each["vehicle"]),
                    "key_id": _octets(each["key_id"]),
                    "basis": Basis(each["basis"]),
                }
            )
            for each in records
        ]

    def advance(self, seconds: int) -> None:
        """Move the fake clock of a test on."""
        self._post("/v1/clock", AUTHORITY, {"actor": AUTHORITY, "advance_s": seconds})

    # --- telematic units ----------------------------------------------------------------------

    def telematic_unit(self, vehicle: bytes, actor: str = AUTHORITY) -> TelematicUnit:
        """Return the unit of a vehicle as it is now."""
        return _unit(self._get(f"/v1/vehicles/{vehicle.hex()}/unit", actor, vehicle=vehicle))

    def link_unit(
        self,
        vehicle: bytes,
        actor: str = DEALER,
        *,
        hardware_id: str,
        pro_hardware: bool = False,
        expires_s: int | None = None,
    ) -> TelematicUnit:
        """Link a unit; for a dealer."""
        body = {"hardware_id": hardware_id, "pro_hardware": pro_hardware, "expires_s": expires_s}
        return self._ask_unit(vehicle, actor, "link", body)

    def confirm_unit(self, vehicle: bytes, actor: str = VEHICLE) -> TelematicUnit:
        """The unit confirms its activation."""
        return self._ask_unit(vehicle, actor, "confirm", {})

    def deactivate_unit(self, vehicle: bytes, actor: str, *, confirmed: bool) -> TelematicUnit:
        """The owner deactivates the unit."""
        return self._ask_unit(vehicle, actor, "deactivate", {"confirmed": confirmed})

    def ask_unit(self, vehicle: bytes, actor: str, verb: TelematicVerb) -> TelematicUnit:
        """Give a verb to the unit."""
        return self._ask_unit(vehicle, actor, "commands", {"verb": verb})

    def set_entitled(self, vehicle: bytes, *, valid: bool) -> TelematicUnit:
        """Record whether the contract of the unit is valid."""
        return self._ask_unit(vehicle, AUTHORITY, "entitlement", {"valid": valid})

    def _ask_unit(
        self, vehicle: bytes, actor: str, what: str, body: dict[str, Any]
    ) -> TelematicUnit:
        path = f"/v1/vehicles/{vehicle.hex()}/unit/{what}"
        return _unit(self._post(path, actor, {"actor": actor, **body}, vehicle))

    # --- requests -----------------------------------------------------------------------------

    def _post(
        self, path: str, actor: str | None, body: dict[str, Any], vehicle: bytes | None = None
    ) -> dict[str, Any]:
        return self._json(self._send("POST", path, actor, vehicle=vehicle, json=body))

    def _get(
        self, path: str, actor: str, *, vehicle: bytes | None = None, **params: str
    ) -> dict[str, Any]:
        asked = {"actor": actor, **params}
        return self._json(self._send("GET", path, actor, vehicle=vehicle, params=asked))

    def _send(
        self, method: str, path: str, actor: str | None, *, vehicle: bytes | None = None, **how: Any
    ) -> httpx.Response:
        token = self._tokens.get(actor or "")
        if token is None and actor == VEHICLE and vehicle is not None:
            token = self._tokens.get(vehicle.hex())
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._http.request(method, path, headers=headers, **how)
        except httpx.HTTPError as exc:
            raise LinkError(
                LinkReason.LOST,
                f"no answer of the authority: {type(exc).__name__}",
                hint="start it, or check its address",
                transient=True,
            ) from exc
        if answer.status_code >= 400:
            raise _error(answer)
        return answer

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        form = _object(answer)
        if form.pop("ok", None) is not True:
            raise WireError("the authority's answer is not one of ours", clause=CLAUSE)
        return form


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        form = answer.json()
    except ValueError as exc:
        raise WireError("the authority's answer is not JSON", clause=CLAUSE) from exc
    if not isinstance(form, dict):
        raise WireError("the authority's answer is no object", clause=CLAUSE)
    return form


def _error(answer: httpx.Response) -> Exception:
    """Return the exception that the authority in process would have raised."""
    form = _object(answer)
    code, why, hint = (form.get(name) for name in ("code", "why", "try"))
    if code in {each.value for each in RefusalCode}:
        remaining_s = form.get("remaining_s")
        return PolicyRefusal(RefusalCode(code), str(why), remaining_s=remaining_s, hint=hint)
    kinds = {
        "NOT_FOUND": UnknownError,
        "OUTAGE": OutageError,
        "UNAUTHENTICATED": UnauthenticatedError,
    }
    return kinds.get(str(code), LocalFault)(f"{why}", hint=hint)


def _octets(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _waiting(form: dict[str, Any]) -> Waiting:
    return Waiting(**{**form, "vehicle": bytes.fromhex(form["vehicle"]), "command": b""})


def _unit(form: dict[str, Any]) -> TelematicUnit:
    return TelematicUnit(
        **{
            **form,
            "profile": TelematicProfile(form["profile"]),
            "state": TelematicState(form["state"]),
        }
    )
