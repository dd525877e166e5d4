"""The mock vehicle's body: signals that a test can set, and the actuators of doors and engine."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from dkey.control.rules import Signals
from dkey.errors import LocalFault

__all__ = ["Body"]

_NAMES = frozenset(item.name for item in fields(Signals))


@dataclass(slots=True, kw_only=True)
class Body:
    """A parked, locked vehicle until set otherwise. Decides nothing, records nothing, does no IO.

    Every attribute may be set at any time. A failed signal (requirements S29) reads as unknown in
    :meth:`signals`, while the body behind it goes on working.

    Attributes:
        speed_kmh: Speed, km/h, negative in reverse.
        immobilised: Whether the vehicle's own alarm keeps it from starting.
        immobilised_by_order: Whether the authority does; no signal, and no sensor that can fail.
        horn: Whether the horn sounds.
        remote_running: Whether remote control started the engine and no driver has taken over.
        fob_lock_s: When the smart key locked the doors with the engine off, monotonic s; None when
            it did not since the engine was switched off.
    """

    locked: bool = True
    ignition_on: bool = False
    gear_in_park: bool = True
    speed_kmh: float = 0.0
    doors_closed: bool = True
    smartkey_near: bool = False
    updating: bool = False
    immobilised: bool = False
    immobilised_by_order: bool = False
    service_mode: bool = False
    valet: bool = False
    horn: bool = False
    remote_running: bool = False
    fob_lock_s: float | None = None
    _failed: set[str] = field(default_factory=set, init=False, repr=False)

    def signals(self) -> Signals:
        """Return what the sensors say now, None for each failed one."""
        said = {name: None if name in self._failed else getattr(self, name) for name in _NAMES}
        if self.immobilised_by_order:
            said["immobilised"] = True
        return Signals(**said)

    def fail(self, *names: str) -> None:
        """Let these signals read as unknown.

        Raises:
            LocalFault: There is no such signal; none of them was changed.
        """
        unknown = set(names) - _NAMES
        if unknown:
            raise LocalFault(
                f"the body has no signal {', '.join(sorted(unknown))}",
                hint=f"choose among {', '.join(sorted(_NAMES))}",
            )
        self._failed.update(names)

    def repair(self, *names: str) -> None:
        """Let these signals be read again; without names, all."""
        self._failed.difference_update(names or _NAMES)

    def lock(self) -> None:
        """Lock the doors."""
        self.locked = True

    def unlock(self) -> None:
        """Unlock the doors."""
        self.locked = False

    def fob_lock(self, *, now_s: float) -> None:
        """Lock the doors by the smart key; counts for remote start while the ignition is off."""
        self.locked = True
        self.fob_lock_s = None if self.ignition_on else now_s

    def fob_unlock(self) -> None:
        """Unlock the doors by the smart key."""
        self.locked = False
        self.fob_lock_s = None

    def start(self, *, remote: bool = False) -> None:
        """Start the engine: the ignition is on. A driver who starts takes a running one over."""
        self.ignition_on = True
        self.remote_running = remote
        self.fob_lock_s = None

    def stop(self) -> None:
        """Stop the engine: the ignition is off."""
        self.ignition_on = False
        self.remote_running = False
