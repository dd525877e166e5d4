"""The virtual air under the real stack: bleak -> D-Bus -> bluetoothd -> kernel -> hci_vhci -> air.

Three processes: the air with the kernel's adapter on it, a peripheral that echoes, and unmodified
bleak. The peripheral is killed in the middle, and comes back.
"""

import signal
import sys

from bluez_adapter import power_on
from processes import Failed, Process, expect, judged, say, start_air

_AIR = "/run/air.sock"
_OWN = "C0:DE:00:00:00:01"


def vehicle(name):
    return Process(name, sys.executable, "/t/echo_vehicle.py", _AIR, _OWN)


def story():
    start_air(_AIR)
    first = vehicle("vehicle1")
    say(f"{power_on()} is powered")
    first.event("ready")
    phone = Process("phone", sys.executable, "/t/echo_phone.py")
    found = phone.event("found")
    say(f"found {found['address']} in {found['ms']} ms")
    expect("address that bluetoothd shows", found["address"], _OWN)
    for name in ("connected", "gatt", "channel"):
        say(str(phone.event(name)))
    phone.event("idle")
    first.stop(signal.SIGKILL)
    expect("connected after the loss", phone.event("lost", 20)["connected"], wanted=False)
    say("the link was lost with the vehicle")
    vehicle("vehicle2")
    say(str(phone.event("connected")))
    phone.event("done")
    phone.rest(15)
    if phone.exit_code != 0:
        raise Failed(f"the phone ended with {phone.exit_code}")


sys.exit(judged(story))
