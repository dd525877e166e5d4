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
    """

    locked: bool = True
    ignition_on: bool = False
    gear_in_park: bool = True
    speed_kmh: float = 0.0
    doors_closed: bool = True
    smartkey_near: bool = False
    updating: bool = False
    immobilised: bool = False
    service_mode: bool = False
    valet: bool = False
    _failed: set[str] = field(default_factory=set, init=False, repr=False)

    def signals(self) -> Signals:
        """Return what the sensors say now, None for each failed one."""
        return Signals(
            **{name: None if name in self._failed else getattr(self, name) for name in _NAMES}
        )

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

    def repair(self) -> None:
        """Let every signal be read again."""
        self._failed.clear()

    def lock(self) -> None:
        """Lock the doors."""
        self.locked = True

    def unlock(self) -> None:
        """Unlock the doors."""
        self.locked = False

    def start(self) -> None:
        """Start the engine: the ignition is on."""
        self.ignition_on = True

    def stop(self) -> None:
        """Stop the engine: the ignition is off."""
        self.ignition_on = False
