"""``ble:`` links against the vehicle's radio: both bearers through bluetoothd and the kernel.

The vehicle is killed in the middle, and comes back with another address.
"""

import signal
import sys

from bluez_adapter import power_on
from processes import Failed, Process, expect, judged, say, start_air

_AIR = "/run/air.sock"


def vehicle(name):
    return Process(name, sys.executable, "/t/radio_vehicle.py", _AIR)


def story():
    start_air(_AIR)
    first = vehicle("vehicle1")
    say(f"{power_on()} is powered")
    first.event("ready")
    phone = Process("phone", sys.executable, "/t/radio_phone.py")
    for bearer in ("gatt", "coc"):
        say(str(phone.event("linked")))
        expect("bearer at the vehicle", first.event("peer")["bearer"], bearer)
        echoed = phone.event("echoed")
        say(str(echoed))
        expect("bearer at the phone", echoed["bearer"], bearer)
    phone.event("idle")
    first.stop(signal.SIGKILL)
    expect("reason", phone.event("lost", 20)["reason"], "LOST")
    second = vehicle("vehicle2")
    say(str(phone.event("linked")))
    expect("bearer at the vehicle", second.event("peer")["bearer"], "coc")
    phone.event("done")
    phone.rest(20)
    if phone.exit_code != 0:
        raise Failed(f"the phone ended with {phone.exit_code}")


sys.exit(judged(story))
