"""The access transaction against its cryptographic floor, a tap against an echo, start and memory.

Everything runs on real entropy. What each figure means is in ``bench/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from _floor import STATUS, Floor
from _pair import ENTROPY, Pair
from _report import Figure, Samples, progress, report, slice_medians, spread
from _taps import taps

from dkey.access.applet import AppletHost
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.device import AccessApplet
from dkey.access.enrolled import Flow
from dkey.access.profile import VEHICLE
from dkey.access.reader import AccessReader
from dkey.bench_reader.reader_file import ReaderFile
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.vault import MemoryVault
from dkey.link.driver import run_blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH = 20
"""Transactions in a row before the next subject has its turn."""
CREDENTIALS = 1000


# ---- in memory: figures 1 to 3 -----------------------------------------------------------------


def interleaved(subjects: dict[str, Callable[[], None]], samples: int) -> Samples:
    """Time each call of each subject, seconds; small batches in turn, every other time reversed."""
    times: Samples = {name: [] for name in subjects}
    order = [*subjects]
    for work in subjects.values():
        for _ in range(BATCH):
            work()
    while len(times[order[0]]) < samples:
        for name in order:
            work, taken = subjects[name], times[name]
            for _ in range(BATCH):
                began = perf_counter()
                work()
                taken.append(perf_counter() - began)
        order.reverse()
    return times


def ratio(times: Samples, above: str, below: str) -> tuple[float, tuple[float, float]]:
    """Return median over median, and its spread over ten consecutive parts of the run."""
    parts = zip(slice_medians(times[above]), slice_medians(times[below]), strict=True)
    return median(times[above]) / median(times[below]), spread([a / b for a, b in parts])


def _us(times: Samples, name: str) -> str:
    low, high = spread(slice_medians(times[name]))
    return f"{name} {median(times[name]) * 1e6:.0f} us ({low * 1e6:.0f}..{high * 1e6:.0f})"


def transactions(samples: int) -> list[Figure]:
    progress(f"transactions in memory, {samples} of each kind")
    pair, floor = Pair(), Floor()
    first, fourth = Pair(4, 0), Pair(4, 3)
    times = interleaved(
        {
            "standard": lambda: pair.transaction(Flow.STANDARD),
            "standard floor": lambda: floor.run(Flow.STANDARD),
            "fast": lambda: pair.transaction(Flow.FAST),
            "fast floor": lambda: floor.run(Flow.FAST),
        },
        samples,
    )
    places = interleaved(
        {
            "match at 4th": lambda: fourth.transaction(Flow.FAST),
            "match at 1st": lambda: first.transaction(Flow.FAST),
        },
        samples,
    )
    compared = "the bare operations of the same transaction, called on cryptography and hashlib"
    figures = []
    for name, kind, limit in (
        ("standard transaction", "standard", 1.35),
        ("fast transaction, one candidate", "fast", 2.5),
    ):
        value, parts = ratio(times, kind, f"{kind} floor")
        figures.append(
            Figure(
                name=f"{name} / crypto floor",
                value=value,
                unit="ratio",
                floor=compared,
                limit=limit,
                samples=len(times[kind]),
                spread=parts,
                note=f"both sides together: {_us(times, kind)}, {_us(times, f'{kind} floor')}",
            )
        )
    value, parts = ratio(places, "match at 4th", "match at 1st")
    figures.append(
        Figure(
            name="fast, match at 4th of 4 / match at 1st of 4",
            value=value,
            unit="ratio",
            floor="the same transaction where the first candidate tried matches",
            limit=(0.95, 1.05),
            better="inside",
            samples=len(places["match at 1st"]),
            spread=parts,
            note=f"{_us(places, 'match at 4th')}, {_us(places, 'match at 1st')}",
        )
    )
    return figures


# ---- whole processes: figures 5 and 6 ----------------------------------------------------------


def _process_ms(code: str, *arguments: str) -> float:
    began = perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)
    return (perf_counter() - began) * 1e3


def processes(samples: int) -> list[Figure]:
    progress(f"processes, {samples} of each kind")
    commands = {
        "pass": ("pass",),
        "import dkey": ("import dkey",),
        "dkey --help": ("import sys; from dkey.cli import main; sys.exit(main())", "--help"),
    }
    times: Samples = {name: [] for name in commands}
    for number in range(-1, samples):  # the first round warms the file cache
        for name, command in commands.items():
            taken_ms = _process_ms(*command)
            if number >= 0:
                times[name].append(taken_ms)
    raw_ms = {name: median(each) for name, each in times.items()}
    extra = [a - b for a, b in zip(times["import dkey"], times["pass"], strict=True)]
    return [
        Figure(
            name="import dkey",
            value=median(extra),
            unit="ms",
            floor="python -c pass, taken off",
            limit=60,
            samples=samples,
            spread=spread(extra),
            note=f"whole process {raw_ms['import dkey']:.1f} ms, pass {raw_ms['pass']:.1f} ms",
        ),
        Figure(
            name="dkey --help",
            value=raw_ms["dkey --help"],
            unit="ms",
            floor="nothing: the whole process, from start to end",
            limit=250,
            samples=samples,
            spread=spread(times["dkey --help"]),
            note=f"of which python -c pass {raw_ms['pass']:.1f} ms",
        ),
    ]


def _write_reader_file(path: Path, scalar: bytes, device: bytes, count: int) -> None:
    """Write a reader file with ``count`` credentials, the first of which is ``device``."""
    points = [device, *(PrivateKey.generate().public.point for _ in range(count - 1))]
    document = {
        "profile": "vehicle",
        "private_key": scalar.hex(),
        "group_id": bytes(16).hex(),
        "sub_id": bytes(16).hex(),
        "credentials": [
            {"name": f"key {n}", "public_key": point.hex(), "kpersistent": os.urandom(32).hex()}
            for n, point in enumerate(points)
        ],
    }
    path.write_text(json.dumps(document), encoding="utf-8")


def resident(path: Path, device_scalar: bytes) -> None:
    """Load a reader file, run a standard and a fast transaction, print the memory in kB as JSON."""
    reader_file = ReaderFile(path)
    identity, directory = reader_file.identity, reader_file.directory
    trusted = TrustedReader(group_id=identity.group_id, public_key=identity.group_key)
    credential = DeviceCredential(
        profile=VEHICLE,
        vault=MemoryVault.of("credential", device_scalar),
        key="credential",
        readers={identity.group_id: trusted},
    )
    reader = AccessReader(identity, directory, ENTROPY)
    host = AppletHost([AccessApplet(credential, ENTROPY)])
    for flow in (Flow.STANDARD, Flow.FAST):
        session = run_blocking(reader.authenticate(flow), host.answer)
        run_blocking(session.complete(STATUS), host.answer)
        if session.kpersistent is not None:
            directory.store_kpersistent(
                credential.vault.public("credential").x, session.kpersistent
            )
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    print(json.dumps({name: int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")}))


def memory(samples: int) -> list[Figure]:
    progress(f"resident memory, {samples} processes")
    reader, device = PrivateKey.generate(), PrivateKey.generate()
    with tempfile.TemporaryDirectory() as folder:

        def measured_mb(count: int) -> tuple[float, float]:
            path = Path(folder, f"{count}.json")
            _write_reader_file(path, reader.scalar().reveal(), device.public.point, count)
            command = [sys.executable, __file__, "--resident", str(path)]
            scalar = device.scalar().reveal().hex()
            done = subprocess.run(command, check=True, capture_output=True, input=scalar, text=True)
            kilobytes = json.loads(done.stdout)
            return kilobytes["VmRSS"] / 1024, kilobytes["VmHWM"] / 1024

        found = [measured_mb(CREDENTIALS) for _ in range(samples)]
        single_mb = median(measured_mb(1)[0] for _ in range(samples))
    resident_mb, peak_mb = (median(each) for each in zip(*found, strict=True))
    return [
        Figure(
            name=f"resident memory of a reader with {CREDENTIALS:,} credentials",
            value=resident_mb,
            unit="MB",
            floor="nothing: VmRSS of the whole process after one standard and one fast transaction",
            limit=60,
            samples=samples,
            spread=spread([each for each, _ in found]),
            note=f"peak (VmHWM) {peak_mb:.1f} MB; with one credential {single_mb:.1f} MB; the "
            "device role and this script are in the same process",
        )
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--samples", type=int, help="transactions of each kind in memory")
    parser.add_argument("--resident", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.resident is not None:
        resident(chosen.resident, bytes.fromhex(sys.stdin.read()))
        return
    samples = chosen.samples or (400 if chosen.quick else 4000)
    if samples < BATCH:
        parser.error(f"--samples is at least {BATCH}")
    figures = transactions(samples)
    figures += taps(max(20, samples // 10))
    figures += processes(10 if chosen.quick else 20)
    figures += memory(1 if chosen.quick else 3)
    report("access", figures, as_json=chosen.json)


if __name__ == "__main__":
    main()
