"""The phone agent against the mock vehicle, each as its own process, on the real stack.

`dkey agent` -> bleak -> D-Bus -> bluetoothd -> kernel -> hci_vhci -> air -> `dkey vehicle run`: an
owner is paired, unlocks, survives the vehicle's death, locks, is refused a start
too early, starts.
"""

import signal
import sys
import time

from bluez_adapter import power_on
from processes import Failed, Process, dkey, expect, judged, say, start_air

_AIR = "/run/air.sock"
_STATE = "/run/vehicle"
_STORE = "/run/phone"
_MARGIN_S = 0.5


class Vehicle:
    """`dkey vehicle run` on the air, and what somebody in the cabin does."""

    def __init__(self, name):
        self.process = Process(
            name, *dkey("vehicle", "run", "--state", _STATE, "--ble", f"ble-sim:{_AIR}", "--json")
        )

    def started(self):
        ready = self.process.event("ready")
        expect("the first event names the radio", bool(ready["ble"]), wanted=True)
        return self

    def knob(self, *command):
        """Run `dkey vehicle set` or `press` and return its answer."""
        answers = run("knob", "vehicle", *command, "--state", _STATE, "--json")
        return answers[-1] if answers else {}


def run(name, *command, timeout_s=60.0):
    """Run a `dkey` command to its end; it must succeed. Returns its JSON lines."""
    process = Process(name, *dkey(*command))
    said = process.rest(timeout_s)
    if process.exit_code != 0:
        raise Failed(f"dkey {' '.join(command)}: exit code {process.exit_code}, said {said}")
    return said


def agent(action, *options):
    """Run `dkey agent ACTION`; returns its exit code and its result."""
    started = time.monotonic()
    process = Process(
        f"agent-{action}", *dkey("agent", action, "--store", _STORE, "--json", *options)
    )
    said = process.rest(90)
    say(f"agent {action}: {process.exit_code} in {time.monotonic() - started:.1f} s")
    return process.exit_code, said[-1] if said else {}


def asked(vehicle, action, wanted):
    """Let the agent ask for ``action`` until the vehicle's repeat timer lets it; it must be done.

    The timer is 30 s of the vehicle's own clock and outlives its process: it is waited for.
    """
    code, result = agent(action)
    if code == 1 and result["error"]["code"] == "TOO_SOON":
        remaining_s = result["error"]["remaining_s"]
        say(f"too soon by {remaining_s} s")
        time.sleep(remaining_s + _MARGIN_S)
        code, result = agent(action)
    if code != 0:
        raise Failed(f"agent {action}: exit code {code}, said {result}")
    say(f"{result['flow']}, {result['seconds']:.2f} s from the call to the verdict")
    expect("action", vehicle.process.event("command", 5)["action"], wanted)


def story():
    start_air(_AIR)
    first = Vehicle("vehicle1")
    say(f"{power_on()} is powered")
    first.started()

    first.knob("set", "ignition=on")
    code = first.knob("press", "pair-owner")["pairing_code"]
    exit_code, result = agent("pair", "--link", "ble:", "--code", code, "--timeout", "20")
    if exit_code != 0:
        raise Failed(f"agent pair: exit code {exit_code}, said {result}")
    expect("state after the first standard transaction", result["state"], "SYNCED")
    expect("bearer", first.process.event("ble_connected", 5)["bearer"], "coc")
    first.process.event("paired", 5)
    first.knob("set", "ignition=off")

    served = Process(
        *("agent-run", *dkey("agent", "run", "--store", _STORE, "--link", "ble:", "--json")),
    )
    served.event("ready")
    asked(first, "unlock", "UNLOCK")
    first.process.stop(signal.SIGKILL)
    served.event("disconnected", 20)
    say("the link was lost with the vehicle")
    second = Vehicle("vehicle2").started()
    asked(second, "lock", "LOCK")

    exit_code, result = agent("start")
    expect("exit code of a start within 30 s", exit_code, 1)
    expect("code of the refusal", result["error"]["code"], "TOO_SOON")
    expect("the vehicle's own word", second.process.event("refused", 5)["code"], "TOO_SOON")
    asked(second, "start", "REMOTE_START")
    served.stop()


sys.exit(judged(story))
