"""The states of the access applet and the commands that lead from one to the next."""

from __future__ import annotations

from enum import Enum
from typing import Final

from dkey.access.messages import Ins

__all__ = ["TRANSITIONS", "DeviceState"]


class DeviceState(Enum):
    """States of the access applet."""

    SELECTED = "selected"
    AUTH0_STANDARD = "AUTH0 answered, standard"
    AUTH0_FAST = "AUTH0 answered, fast"
    CERTIFICATE = "certificate loaded"
    SECURED = "secured"
    ENDED = "ended"


TRANSITIONS: Final[dict[tuple[DeviceState, Ins], tuple[DeviceState, ...]]] = {
    (DeviceState.SELECTED, Ins.AUTH0): (DeviceState.AUTH0_STANDARD, DeviceState.AUTH0_FAST),
    (DeviceState.AUTH0_STANDARD, Ins.LOAD_CERT): (DeviceState.CERTIFICATE,),
    (DeviceState.AUTH0_STANDARD, Ins.AUTH1): (DeviceState.SECURED,),
    (DeviceState.AUTH0_FAST, Ins.LOAD_CERT): (DeviceState.CERTIFICATE,),
    (DeviceState.AUTH0_FAST, Ins.AUTH1): (DeviceState.SECURED,),
    (DeviceState.AUTH0_FAST, Ins.EXCHANGE): (DeviceState.SECURED, DeviceState.ENDED),
    (DeviceState.CERTIFICATE, Ins.AUTH1): (DeviceState.SECURED,),
    (DeviceState.SECURED, Ins.EXCHANGE): (DeviceState.SECURED, DeviceState.ENDED),
}
"""Which command each state takes and where it leads. CONTROL FLOW leads to ``ENDED`` from every
state, SELECT to ``SELECTED``; every other pair, and every failure, leads to ``ENDED``."""
