"""The key menu of the head unit: who may see what, and what the owner does there at once.

Whoever sits in the vehicle can touch the screen, so a session is a key that lies on the console
pad. The owner's key sees and withdraws all keys, the actual user's those below it (requirements
S49); anyone else sees the own key and how many there are (S140, C29).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dkey.errors import PolicyRefusal, RefusalCode
from dkey.lifecycle.roles import CredentialState, Role
from firmware_mock import share_rows

if TYPE_CHECKING:
    from dkey.control.rules import Grant
    from firmware_mock.owner_desk import OwnerDesk
    from firmware_mock.vehicle import Vehicle

__all__ = ["VERBS", "HeadUnit"]

VERBS: Final = {
    "suspend": CredentialState.SUSPENDED,
    "resume": CredentialState.ACTIVE,
    "revoke": CredentialState.REVOKED,
}
"""What a session may do to a key, and the state that it asks for."""
_BELOW: Final = {
    Role.OWNER: frozenset({Role.ACTUAL_USER, Role.ASSOCIATE, Role.PROVIDER, Role.CARD}),
    Role.ACTUAL_USER: frozenset({Role.ASSOCIATE, Role.PROVIDER}),
}
_OUT: Final = (CredentialState.REVOKED, CredentialState.REPLACED)


class HeadUnit:
    """The menu of one vehicle.

    Args:
        vehicle: The vehicle.
        owners: Owner pairing, which ends an owner's time too.
    """

    def __init__(self, vehicle: Vehicle, owners: OwnerDesk) -> None:
        self._vehicle = vehicle
        self._owners = owners

    def session(self) -> Grant | None:
        """Return whose usable key lies on the console pad now; None for nobody's."""
        grant = self._vehicle.key_on_pad()
        if grant is None or grant.state is not CredentialState.ACTIVE or grant.expired:
            return None
        return grant

    def keys(self) -> dict[str, object]:
        """Return the keys that the session may see, and how many are in use."""
        session = self.session()
        shares = share_rows.shares(self._vehicle.store.file)
        admitted = {
            each.claims.share_id: each for each in self._vehicle.keys.book.admissions.admitted
        }
        in_use = [each for each in self._vehicle.keys.grants() if each.state not in _OUT]
        sees = frozenset[Role]() if session is None else _BELOW.get(session.role, frozenset())
        listed = []
        for each in in_use:
            own = session is not None and each.credential_id == session.credential_id
            if not own and each.role not in sees:
                continue
            share = admitted.get(shares.get(each.credential_id, b""))
            listed.append(
                {
                    "id": each.credential_id,
                    "name": each.name,
                    "role": each.role.value,
                    "permission": each.permission.value,
                    "state": "EXPIRED" if each.expired else each.state.value,
                    "slot": share.claims.slot if share else None,
                    "until_s": share.until_s if share else None,
                    "own": own,
                }
            )
        role = None if session is None else session.role.value
        return {"session": role, "count": len(in_use), "keys": listed}

    def withdraw(self, verb: str, credential_id: str) -> None:
        """Suspend, resume or revoke a key at once; it survives whatever the network does.

        Raises:
            PolicyRefusal: NOT_AUTHORISED without a session that may; KEY_UNKNOWN, DRIVING, VALET.
        """
        session = self._authorised()
        target = self._vehicle.grant(credential_id)
        if target is None:
            raise PolicyRefusal(RefusalCode.KEY_UNKNOWN, "there is no such key in this vehicle")
        if target.role not in _BELOW.get(session.role, frozenset()):
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED, "the key on the pad may not withdraw that key"
            )
        self._vehicle.set_state(credential_id, VERBS[verb])

    def transfer(self) -> int:
        """Erase everything for the next owner; return the new owner epoch (requirements S55).

        Raises:
            PolicyRefusal: NOT_AUTHORISED without the owner's key on the pad; DRIVING, VALET.
        """
        self._owner()
        return self._owners.transfer()

    def unpair(self, *, same_person: bool = False) -> int:
        """End the owner's key and all shared ones; return the new owner epoch.

        Args:
            same_person: The owner comes back with another account or phone: the cards stay.

        Raises:
            PolicyRefusal: As of :meth:`transfer`.
        """
        self._owner()
        return self._owners.unpair(same_person=same_person)

    def _owner(self) -> None:
        if self._authorised().role is not Role.OWNER:
            raise PolicyRefusal(RefusalCode.NOT_AUTHORISED, "only the owner may do this")

    def _authorised(self) -> Grant:
        signals, session = self._vehicle.body.signals(), self.session()
        if session is None or session.role not in _BELOW:
            raise PolicyRefusal(
                RefusalCode.NOT_AUTHORISED,
                "the owner's key does not lie on the pad",
                hint="lay the owner's phone on the console pad and try again",
            )
        if signals.driving:
            raise PolicyRefusal(RefusalCode.DRIVING, "the vehicle is driving")
        if signals.valet is not False:
            raise PolicyRefusal(RefusalCode.VALET, "valet mode hides the menu")
        return session
