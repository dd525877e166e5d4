"""The access transaction against its cryptographic floor, a tap against an echo, start and memory.

Everything runs on real entropy. What each figure means is in ``bench/README.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from hashlib import sha256
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from _report import Figure, report, slice_medians, spread
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dkey.access.applet import AppletHost
from dkey.access.device import AccessApplet, DeviceCredential, TrustedReader
from dkey.access.directory import MemoryDirectory
from dkey.access.exchange import SUCCESS, ExchangeRequest, ReaderStatus
from dkey.access.messages import Auth1Payload, CryptogramPayload, SelectResponse, Signaling
from dkey.access.profile import VEHICLE, Interface
from dkey.access.reader import AccessReader, EnrolledCredential, Flow, ReaderIdentity, Session
from dkey.access.schedule import DEVICE_USAGE, READER_USAGE, Context
from dkey.bench_reader.reader_file import ReaderFile
from dkey.crypto.entropy import SystemEntropy
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.errors import LinkError
from dkey.link.driver import run, run_blocking
from firmware_mock.field import DeviceInField

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from dkey.link.nfc import NfcInitiator
    from firmware_mock.pn532 import VirtualPn532

Samples = dict[str, list[float]]

ENTROPY = SystemEntropy()
STATUS = ReaderStatus.UNSECURE
BATCH = 20
"""Transactions in a row before the next subject has its turn."""
CREDENTIALS = 1000


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- the floor: bare operations ----------------------------------------------------------------

_CURVE = ec.SECP256R1()
_ECDH = ec.ECDH()
_SHA256 = SHA256()
_ECDSA = ec.ECDSA(_SHA256)
_ECDSA_DIGEST = ec.ECDSA(utils.Prehashed(_SHA256))
_IV_READER, _IV_DEVICE, _IV_DEVICE_2 = (
    bytes.fromhex(f"{iv:024x}") for iv in (1, 1 << 32 | 1, 1 << 32 | 2)
)
_IV_ONCE = bytes(12)


def _encode(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _decode(point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)


def _hkdf(key: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    return HKDF(_SHA256, size, salt, info).derive(key)


class Floor:
    """The cryptographic operations of one transaction, called directly, and nothing else.

    No TLV, no APDU, no state, no checks. Salts, infos, signed data and plaintexts have the real
    sizes and are made beforehand; keys, signatures and ciphertexts are real in every round.
    :meth:`standard` and :meth:`fast` yield at the end of each turn, reader and device alternately,
    SELECT first: so the same operations can be run where the product runs them.
    """

    def __init__(self) -> None:
        self.reader = ec.generate_private_key(_CURVE)
        self.device = ec.generate_private_key(_CURVE)
        self.reader_public, self.device_public = self.reader.public_key(), self.device.public_key()
        self.device_point = _encode(self.device)
        x = self.device_point[1:33]
        context = Context(
            group_key_x=os.urandom(32),
            reader_id=os.urandom(32),
            interface=Interface.NFC,
            version=VEHICLE.versions[0],
            reader_ephemeral_x=os.urandom(32),
            device_ephemeral_x=os.urandom(32),
            transaction_id=os.urandom(16),
            parameters=0,
            policy=1,
            a5=SelectResponse(aid=VEHICLE.access_aid, versions=VEHICLE.versions).encode_a5(),
        )
        self.info = context.info
        self.salt = context.salt(b"Volatile****")
        self.salt_persistent = context.salt(b"Persistent**", x)
        self.salt_fast = context.salt(b"VolatileFast", x)
        self.by_reader = context.signed_data(READER_USAGE)
        self.by_device = context.signed_data(DEVICE_USAGE)
        self.kpersistent = os.urandom(32)
        proof = Auth1Payload(
            public_key=self.device_point, signature=bytes(64), signaling=Signaling()
        )
        self.proof_head = proof.to_bytes()[:69]
        self.proof_tail = proof.to_bytes()[-4:]
        self.cryptogram = CryptogramPayload(signaling=Signaling()).to_bytes()
        self.request = ExchangeRequest(status=STATUS).to_bytes()

    def turns(self, flow: Flow) -> Iterator[None]:
        """Return the turns of one transaction."""
        return self.standard() if flow is Flow.STANDARD else self.fast()

    def run(self, flow: Flow) -> None:
        """Run one transaction at once."""
        deque(self.turns(flow), maxlen=0)

    def standard(self) -> Iterator[None]:
        """Two key pairs, three points, two signatures made and verified, two ECDH, the rest."""
        yield  # SELECT: nothing to compute
        yield
        reader_ephemeral = ec.generate_private_key(_CURVE)
        reader_point = _encode(reader_ephemeral)
        transaction_id = os.urandom(16)
        yield  # the device's AUTH0
        device_ephemeral = ec.generate_private_key(_CURVE)
        at_device = _decode(reader_point)
        device_point = _encode(device_ephemeral)
        yield  # the reader's AUTH1
        at_reader = _decode(device_point)
        signature = self._sign(self.reader, self.by_reader)
        kdh = self._agree(reader_ephemeral, at_reader, transaction_id)
        block = _hkdf(kdh, self.salt, self.info, 160)
        reader_out, reader_in = AESGCM(block[:32]), AESGCM(block[32:64])
        yield  # the device's AUTH1
        self._verify(self.reader_public, signature, self.by_reader)
        kdh_device = self._agree(device_ephemeral, at_device, transaction_id)
        block = _hkdf(kdh_device, self.salt, self.info, 160)
        device_in, device_out = AESGCM(block[:32]), AESGCM(block[32:64])
        _hkdf(kdh_device, self.salt_persistent, self.info, 32)
        proof = self.proof_head + self._sign(self.device, self.by_device) + self.proof_tail
        sealed = device_out.encrypt(_IV_DEVICE, proof, None)
        yield  # the reader's EXCHANGE
        plain = reader_in.decrypt(_IV_DEVICE, sealed, None)
        _decode(plain[2:67])
        self._verify(self.device_public, plain[69:133], self.by_device)
        _hkdf(kdh, self.salt_persistent, self.info, 32)
        sealed = reader_out.encrypt(_IV_READER, self.request, None)
        yield  # the device's EXCHANGE
        device_in.decrypt(_IV_READER, sealed, None)
        sealed = device_out.encrypt(_IV_DEVICE_2, SUCCESS, None)
        yield  # the reader's end
        reader_in.decrypt(_IV_DEVICE_2, sealed, None)

    def fast(self) -> Iterator[None]:
        """Two key pairs, two points, two key blocks, the cryptogram, one EXCHANGE."""
        yield  # SELECT: nothing to compute
        yield
        reader_point = _encode(ec.generate_private_key(_CURVE))
        os.urandom(16)
        yield  # the device's AUTH0
        _decode(reader_point)
        device_point = _encode(ec.generate_private_key(_CURVE))
        block = _hkdf(self.kpersistent, self.salt_fast, self.info, 160)
        device_in, device_out = AESGCM(block[32:64]), AESGCM(block[64:96])
        cryptogram = AESGCM(block[:32]).encrypt(_IV_ONCE, self.cryptogram, None)
        yield  # the reader's EXCHANGE
        _decode(device_point)
        block = _hkdf(self.kpersistent, self.salt_fast, self.info, 160)
        AESGCM(block[:32]).decrypt(_IV_ONCE, cryptogram, None)
        reader_out, reader_in = AESGCM(block[32:64]), AESGCM(block[64:96])
        sealed = reader_out.encrypt(_IV_READER, self.request, None)
        yield  # the device's EXCHANGE
        device_in.decrypt(_IV_READER, sealed, None)
        sealed = device_out.encrypt(_IV_DEVICE, SUCCESS, None)
        yield  # the reader's end
        reader_in.decrypt(_IV_DEVICE, sealed, None)

    @staticmethod
    def _agree(
        own: ec.EllipticCurvePrivateKey, peer: ec.EllipticCurvePublicKey, transaction_id: bytes
    ) -> bytes:
        shared = own.exchange(_ECDH, peer)
        return sha256(shared + b"\x00\x00\x00\x01" + transaction_id).digest()

    @staticmethod
    def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
        der = key.sign(sha256(data).digest(), _ECDSA_DIGEST)
        r, s = utils.decode_dss_signature(der)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    @staticmethod
    def _verify(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key.verify(utils.encode_dss_signature(r, s), data, _ECDSA)


# ---- the product: both roles in one process ----------------------------------------------------


class Pair:
    """A reader and a device that know each other, and the device's host that answers APDUs.

    Args:
        candidates: Credentials with a Kpersistent that the reader knows.
        place: Which of them, from 0 in the order of trial, is the device's.
    """

    def __init__(self, candidates: int = 1, place: int = 0) -> None:
        group_id, sub_id = os.urandom(16), os.urandom(16)
        reader_vault = MemoryVault(reader=PrivateKey.generate())
        vault = MemoryVault(credential=PrivateKey.generate())
        kpersistent = Secret(os.urandom(32))
        enrolled = [_enrolled(f"other {number}") for number in range(candidates)]
        enrolled[place] = EnrolledCredential(
            name="device", public_key=vault.public("credential"), kpersistent=kpersistent
        )
        trusted = TrustedReader(group_id=group_id, public_key=reader_vault.public("reader"))
        credential = DeviceCredential(
            profile=VEHICLE,
            vault=vault,
            key="credential",
            readers={group_id: trusted},
            kpersistent={(group_id, sub_id): kpersistent},
        )
        identity = ReaderIdentity(
            profile=VEHICLE, group_id=group_id, sub_id=sub_id, vault=reader_vault, key="reader"
        )
        self.directory = MemoryDirectory(enrolled)
        self.reader = AccessReader(identity, self.directory, ENTROPY)
        self.applet = AccessApplet(credential, ENTROPY)
        self.host = AppletHost([self.applet])

    def procedure(self, flow: Flow) -> Generator[bytes, bytes, Session]:
        """The reader's whole transaction: SELECT, AUTH0, [AUTH1,] EXCHANGE with a status."""
        session = yield from self.reader.authenticate(flow)
        yield from session.complete(STATUS)
        return session

    def keep(self, session: Session) -> None:
        """Keep Kpersistent in the reader's memory, and take the device's event."""
        if session.flow is Flow.STANDARD:
            assert session.credential is not None
            assert session.kpersistent is not None
            self.directory.store_kpersistent(session.credential.public_key.x, session.kpersistent)
        self.applet.events.clear()

    def transaction(self, flow: Flow) -> None:
        """Run one transaction in memory."""
        self.keep(run_blocking(self.procedure(flow), self.host.answer))


def _enrolled(name: str) -> EnrolledCredential:
    return EnrolledCredential(
        name=name, public_key=PrivateKey.generate().public, kpersistent=Secret(os.urandom(32))
    )


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


# ---- through nfcpy on a pseudo-terminal: figure 4 ----------------------------------------------


class Recording:
    """The APDUs of one transaction, and a device that answers them from the record.

    Attributes:
        turns: What reader and device compute before each message; nothing in a bare echo.
    """

    def __init__(self) -> None:
        self.turns: Iterator[None] = iter(())
        self.commands: list[bytes] = []
        self.responses: list[bytes] = []
        self._next = 0

    def sent(self, command: bytes) -> None:
        """Note a command."""
        self.commands.append(command)

    def received(self, response: bytes) -> None:
        """Note its response."""
        self.responses.append(response)

    def answer(self, command: bytes) -> bytes:
        """Give the next recorded response."""
        del command
        next(self.turns, None)
        self._next += 1
        return self.responses[self._next - 1]

    def field_off(self) -> None:
        """Begin again."""
        self._next = 0

    def echo(self, exchange: Callable[[bytes], bytes]) -> None:
        """Send the recorded commands in a plain loop."""
        for command in self.commands:
            next(self.turns, None)
            exchange(command)
        next(self.turns, None)


_KINDS = ("tap", "echo", "crypto")
_FLOWS = (Flow.STANDARD, Flow.FAST)
_MAX_LOST = 3


class Taps:
    """Taps of both flows, bare echoes and echoes with the floor, on one reader.

    Args:
        chip: The virtual PN532 that ``initiator`` drives.
        initiator: The reader.

    Attributes:
        lost: Rounds that were repeated because nfcpy gave up: it does when the machine stalls
            for 100 ms.
    """

    def __init__(self, chip: VirtualPn532, initiator: NfcInitiator) -> None:
        self.lost = 0
        self._chip, self._initiator = chip, initiator
        self._floor = Floor()
        self._pairs = {flow: Pair() for flow in _FLOWS}
        self._records = {flow: Recording() for flow in _FLOWS}
        for flow, pair in self._pairs.items():
            run_blocking(pair.procedure(flow), pair.host.answer, self._records[flow])

    async def rounds(self, samples: int) -> Samples:
        """Time ``samples`` rounds of all kinds; the order turns around every other round."""
        times: Samples = {f"{flow.value} {kind}": [] for flow in _FLOWS for kind in _KINDS}
        done, opening = 0, True
        while done < samples:
            kinds = _KINDS if done % 2 else _KINDS[::-1]
            try:
                taken = [(f, kind, await self._once(f, kind)) for f in _FLOWS for kind in kinds]
            except LinkError:
                self.lost, opening = self.lost + 1, True
                if self.lost > _MAX_LOST:
                    raise
                continue
            if opening:  # this round opened the reader
                opening = False
                continue
            done += 1
            for flow, kind, seconds in taken:
                times[f"{flow.value} {kind}"].append(seconds)
        return times

    async def _once(self, flow: Flow, kind: str) -> float:
        """Sense the device, do the work, switch the field off; return the seconds it took."""
        pair, record = self._pairs[flow], self._records[flow]
        record.turns = self._floor.turns(flow) if kind == "crypto" else iter(())
        self._chip.target = DeviceInField(pair.host if kind == "tap" else record)
        began = perf_counter()
        link = await self._initiator.sense(timeout_s=5.0)
        assert link is not None
        if kind == "tap":
            pair.keep(await run(pair.procedure(flow), link))
        else:
            await link.run_blocking(record.echo)
        await link.aclose()
        return perf_counter() - began


def _shares(times: Samples, flow: str, lost: int) -> list[Figure]:
    """Return our share of a tap above the echo, percent: whole, and above the bare crypto."""
    tap, echo, crypto = (times[f"{flow} {kind}"] for kind in _KINDS)
    note = (
        f"{flow} tap {median(tap) * 1e3:.2f} ms, echo {median(echo) * 1e3:.2f} ms, "
        f"echo with the bare crypto {median(crypto) * 1e3:.2f} ms; "
        f"{lost} rounds lost to a stall of the machine and repeated"
    )

    def share(name: str, below: list[float], floor: str, limit: float | None) -> Figure:
        # Neighbours in time are subtracted: an idle machine wakes up slowly, a busy one does not.
        extra = [a - b for a, b in zip(tap, below, strict=True)]
        slices = zip(slice_medians(extra), slice_medians(echo), strict=True)
        return Figure(
            name=f"{flow} tap through nfcpy on the pty, {name}",
            value=median(extra) / median(echo) * 100,
            unit="%",
            floor=floor,
            limit=limit,
            samples=len(tap),
            spread=spread([above / base * 100 for above, base in slices]),
            note=note,
        )

    return [
        share(
            "above an echo",
            echo,
            "recorded APDUs of the same tap, sent by a plain loop inside NfcLink.run_blocking to a "
            "responder that answers from the record: the same nfcpy driver, pseudo-terminal, "
            "virtual PN532, ISO-DEP, sense and field off; no cryptography",
            20 if flow == "standard" else None,
        ),
        share(
            "without crypto",
            crypto,
            "the same echo, in which reader and device also run the crypto floor, each operation "
            "where the product runs it; in percent of the echo without",
            20 if flow == "standard" else None,
        ),
    ]


def taps(samples: int) -> list[Figure]:
    # Here, because nfcpy is not in the process that figure 6 measures.
    from dkey.link.nfc import NfcInitiator  # noqa: PLC0415
    from firmware_mock.pn532 import VirtualPn532  # noqa: PLC0415
    from firmware_mock.pty_port import PtyPort  # noqa: PLC0415

    async def measured() -> list[Figure]:
        chip = VirtualPn532()
        with PtyPort(chip) as port:
            initiator = NfcInitiator(port.path)
            measuring = Taps(chip, initiator)
            times = await measuring.rounds(samples)
            await initiator.aclose()
        return [figure for flow in _FLOWS for figure in _shares(times, flow.value, measuring.lost)]

    progress(f"taps through nfcpy on a pseudo-terminal, {samples} of each kind")
    return asyncio.run(measured())


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
