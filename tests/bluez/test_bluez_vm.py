"""The real stack: bleak -> D-Bus -> bluetoothd -> kernel -> hci_vhci -> virtual air, in QEMU."""

from __future__ import annotations

import os
from pathlib import Path

import build_image
import pytest
import run_vm

pytestmark = pytest.mark.bluez_vm

_HERE = Path(__file__).resolve().parent
_IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.fixture(scope="module")
def guest():
    """The built image; skips where there is none to be had, except in CI."""
    if (why := run_vm.cannot_run()) is not None:
        _not_here(why)
    if not (_IN_CI or build_image.folder().exists()):
        _not_here("no guest image; `python tests/bluez/build_image.py` builds one in a minute")
    try:
        return build_image.build()
    except build_image.ImageError as exc:
        _not_here(f"the guest image could not be built: {exc}")


def _not_here(why):
    if _IN_CI:
        pytest.fail(f"CI must run this tier: {why}")
    pytest.skip(f"real-stack tier: {why}")


def _passes(payload, folder):
    ended = run_vm.run(_HERE / "payloads" / payload, folder)
    assert ended.exit_code == 0, f"{payload} failed; {ended.artefacts} has all\n{ended.console()}"
    return ended


def test_the_kernels_adapter_and_bleak_work_on_the_virtual_air(guest, tmp_path):
    ended = _passes("air_and_kernel.py", tmp_path)
    assert (ended.artefacts / "kernel.btsnoop").stat().st_size > 1000


def test_both_bearers_reach_the_vehicles_radio_through_bluetoothd(guest, tmp_path):
    _passes("links_and_radio.py", tmp_path)


def test_the_agent_pairs_and_drives_the_vehicle_through_bluetoothd(guest, tmp_path):
    _passes("agent_and_vehicle.py", tmp_path)


def test_a_payload_that_fails_fails_the_run(guest, tmp_path):
    payload = tmp_path / "payload.py"
    payload.write_text("import sys\nsys.exit(7)\n")
    assert run_vm.run(payload, tmp_path / "artefacts").exit_code == 7
