"""A chip-level STS receiver, and an attacker who sends random pulses over the frame.

BPRF: 4096 pulses, one every 8 chips of 2.003 ns. Complex baseband at chip rate; noise, multipath
and the attacker are added to the samples, the receiver correlates with the STS it expects at every
chip around the strongest path and searches backwards for the first. No pulse shape, converter or
gain control: only the order of the receivers means something (specs/virtual-uwb.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from dkey.crypto.secret import Secret
from dkey.ranging.keys import sts_v
from dkey.ranging.sts import sts_pulses_batch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Pulses = NDArray[np.int8]
    Samples = NDArray[np.complex64]

__all__ = [
    "BACK_SEARCH_CHIPS",
    "EARLY_CHIPS",
    "NO_FIX",
    "PULSES",
    "RECEIVERS",
    "Air",
    "Correlation",
    "Receiver",
    "Result",
    "correlate",
    "decide",
    "early_chances",
    "pulses",
    "receive",
    "trial",
]

PULSES: Final = 4096
SPACING: Final = 8
BACK_SEARCH_CHIPS: Final = 64
EARLY_CHIPS: Final = 4
"""From 4 chips (2.4 m) on, a first path counts as early."""
NO_FIX: Final = 9999
_TAPS: Final = 24
_AFTER: Final = 8
_LAGS: Final = BACK_SEARCH_CHIPS + _AFTER + _TAPS
_SEGMENTS: Final = 8
_WIDTH: Final = PULSES + _LAGS // SPACING + 1
"""Samples kept of each of the 8 chip phases."""
_BATCH: Final = 50
_NOISE_FACTOR: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Air:
    """What a frame goes through on its way to the receiver.

    Attributes:
        snr_db: Power of a pulse on the line of sight over the thermal noise of one chip.
        blocked: Whether the first path is 12 dB under the strongest, 5 chips later.
        attacker_db: Attacker's power over the victim's; None without an attacker. The attacker
            knows the pulse rate, not the STS, and hits one chip phase, at random in each frame.
    """

    snr_db: float = -10.0
    blocked: bool = False
    attacker_db: float | None = None

    @property
    def noise(self) -> float:
        """Standard deviation of each of the two components of the noise of one chip."""
        return float(10 ** (-self.snr_db / 20) / np.sqrt(2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A rule that says which lag is the first path: the first one that passes every test set.

    Attributes:
        of_peak: At least this share of the strongest correlation; None for no such test.
        quality: The strongest path has at least this share of the correlation coefficient that
            thermal noise alone leaves, or there is no fix.
        coherence: At least this agreement among 8 parts of the STS, 0..1.
        normalised: At least this many times the square root of the received energy. Whatever an
            attacker sends without knowing the STS, a lag passes with a chance of at most
            2*exp(-normalised**2 / 2): 4.8e-7 a frame for 6.23 and 64 lags (Hoeffding).
    """

    of_peak: float | None = None
    quality: float = 0.0
    coherence: float = 0.0
    normalised: float = 0.0


RECEIVERS: Final[dict[str, Receiver]] = {
    "first path > 25 %": Receiver(of_peak=0.25),
    "first path > 40 %": Receiver(of_peak=0.40),
    "first path > 50 %": Receiver(of_peak=0.50),
    "peak quality": Receiver(of_peak=0.25, quality=0.5),
    "coherence": Receiver(of_peak=0.25, coherence=0.8),
    "normalised": Receiver(normalised=6.23),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """What one batch of T frames gives at each of L lags; the true first path is at lag 64.

    Attributes:
        peaks: (T, L) magnitude of the correlation with the whole STS.
        parts: (T, L) sum of the squared magnitudes of its 8 parts.
        energy: (T, L) energy of the samples correlated.
    """

    peaks: NDArray[np.float32]
    parts: NDArray[np.float32]
    energy: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a receiver made of T frames.

    Attributes:
        first: (T,) lag of the first path in chips against the true one, negative is early; NO_FIX
            without one.
    """

    first: NDArray[np.int64]

    EARLY: ClassVar[int] = -EARLY_CHIPS

    @property
    def fixed(self) -> NDArray[np.bool_]:
        """Return which frames were accepted."""
        accepted: NDArray[np.bool_] = self.first != NO_FIX
        return accepted

    @property
    def early(self) -> NDArray[np.bool_]:
        """Return which frames were accepted at least 2.4 m early."""
        early: NDArray[np.bool_] = self.first <= self.EARLY
        return early

    @property
    def right(self) -> NDArray[np.bool_]:
        """Return which frames were accepted within a chip of the truth."""
        right: NDArray[np.bool_] = np.abs(self.first) <= 1
        return right


def pulses(key: Secret, hashed: Secret, indices: NDArray[np.int64]) -> Pulses:
    """Return the STS of frames with these indices under one round key, shape (T, 4096).

    Args:
        key: dURSK, 16 bytes.
        hashed: The session's salted hash, 16 bytes.
        indices: STS index of each frame.
    """
    return sts_pulses_batch(key, [sts_v(hashed, int(index)) for index in indices])


def receive(sent: Pulses, air: Air, rng: np.random.Generator) -> Samples:
    """Return what arrives when these pulses (T, 4096) are sent: (T, 8 chip phases, samples)."""
    frames = len(sent)
    shape = (frames, SPACING, _WIDTH)
    got = np.empty(shape, np.complex64)
    got.real = rng.standard_normal(shape, dtype=np.float32)
    got.imag = rng.standard_normal(shape, dtype=np.float32)
    got *= np.float32(air.noise)
    paths, shape_of = _paths(frames, air, rng), sent.astype(np.float32)
    for tap in range(_TAPS):
        at, phase = divmod(BACK_SEARCH_CHIPS + tap, SPACING)
        got[:, phase, at : at + PULSES] += paths[:, tap, None] * shape_of
    if air.attacker_db is not None:
        phases = rng.integers(0, SPACING, frames)
        turn = np.exp(2j * np.pi * rng.random((frames, 1))).astype(np.complex64)
        guess = (1 - 2 * rng.integers(0, 2, (frames, _WIDTH), dtype=np.int8)).astype(np.float32)
        got[np.arange(frames), phases] += np.float32(10 ** (air.attacker_db / 20)) * turn * guess
    return got


def _paths(frames: int, air: Air, rng: np.random.Generator) -> Samples:
    """Return complex taps (T, 24); the first path is tap 0."""
    shape = (frames, _TAPS)
    taps = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)
    taps *= np.sqrt(0.3 * np.exp(-np.arange(_TAPS) / 6))
    first, strongest = np.exp(2j * np.pi * rng.random((2, frames)))
    taps[:, 0] = 0.25 * first if air.blocked else first
    if air.blocked:
        taps[:, 5] = strongest
    paths: Samples = taps.astype(np.complex64)
    return paths


def correlate(got: Samples, expected: Pulses) -> Correlation:
    """Correlate at every lag with the STS that the receiver expects (T, 4096)."""
    frames = len(got)
    parts = np.empty((2, frames, _LAGS, _SEGMENTS), np.float32)
    energy = np.empty((frames, _LAGS), np.float32)
    template = expected.astype(np.float32).reshape(frames, _SEGMENTS, -1)
    planes = np.stack([got.real, got.imag])
    # Running sum of the energy of each phase: a lag's energy is a difference of two entries.
    running = np.zeros((frames, SPACING, _WIDTH + 1))
    np.cumsum(planes[0] ** 2 + planes[1] ** 2, axis=2, out=running[:, :, 1:])
    for lag in range(_LAGS):
        at, phase = divmod(lag, SPACING)
        window = planes[:, :, phase, at : at + PULSES].reshape(2, *template.shape)
        np.einsum("ctsn,tsn->cts", window, template, out=parts[:, :, lag])
        energy[:, lag] = running[:, phase, at + PULSES] - running[:, phase, at]
    whole = parts.sum(axis=3)
    return Correlation(
        peaks=np.hypot(whole[0], whole[1]),
        parts=(parts**2).sum(axis=(0, 3)),
        energy=energy,
    )


def decide(seen: Correlation, receiver: Receiver, noise: float) -> Result:
    """Return the first path that the rule accepts.

    Args:
        seen: The correlations.
        receiver: The rule.
        noise: The receiver's own noise (:attr:`Air.noise`), which it knows from its calibration.
    """
    rows = np.arange(len(seen.peaks))
    strongest = seen.peaks.argmax(axis=1)
    peak = seen.peaks[rows, strongest]
    passed = np.arange(_LAGS)[None] <= strongest[:, None]
    if receiver.of_peak is not None:
        floor = _NOISE_FACTOR * noise * np.sqrt(2 * PULSES)
        passed &= seen.peaks > np.maximum(receiver.of_peak * peak, floor)[:, None]
    if receiver.coherence:
        passed &= seen.peaks**2 > receiver.coherence * _SEGMENTS * seen.parts
    if receiver.normalised:
        passed &= seen.peaks > receiver.normalised * np.sqrt(seen.energy)
    if receiver.quality:
        coefficient = peak / np.sqrt(PULSES * seen.energy[rows, strongest])
        best = 1 / np.sqrt(1 + 2 * noise**2 / (peak / PULSES) ** 2)
        passed &= (coefficient >= receiver.quality * best)[:, None]
    first = np.where(passed.any(axis=1), passed.argmax(axis=1) - BACK_SEARCH_CHIPS, NO_FIX)
    return Result(first=first)


def early_chances(
    powers_db: Iterable[int], frames: int, rng: np.random.Generator, *, snr_db: float = -10.0
) -> dict[str, dict[int, float]]:
    """Measure how often each receiver takes random pulses for the first path.

    Returns:
        Receiver to attacker's power (dB) to share of frames, as
        :class:`~firmware_mock.uwb_attacks.EarlyInjection` takes it.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in RECEIVERS}
    for power_db in powers_db:
        tried = trial(Air(snr_db=snr_db, attacker_db=power_db), frames, rng)
        for name, result in tried.items():
            found[name][power_db] = float(result.early.mean())
    return found


def trial(
    air: Air,
    frames: int,
    rng: np.random.Generator,
    *,
    key: Secret | None = None,
    hashed: Secret | None = None,
    expected_offset: int = 0,
) -> dict[str, Result]:
    """Send ``frames`` frames through the air and return what each of :data:`RECEIVERS` made of it.

    Args:
        air: The way, with or without an attacker.
        frames: How many; each has an STS index of its own.
        rng: All chance comes from it.
        key: dURSK; drawn when not given.
        hashed: Salted hash; drawn when not given.
        expected_offset: How far the receiver's STS index is from the sender's; 0 when they agree.
    """
    key = key or Secret(rng.bytes(16))
    hashed = hashed or Secret(rng.bytes(16))
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in RECEIVERS}
    for start in range(0, frames, _BATCH):
        indices = rng.integers(0, 2**30, min(_BATCH, frames - start))
        sent = pulses(key, hashed, indices)
        expected = pulses(key, hashed, indices + expected_offset) if expected_offset else sent
        seen = correlate(receive(sent, air, rng), expected)
        for name, receiver in RECEIVERS.items():
            found[name].append(decide(seen, receiver, air.noise).first)
    return {name: Result(first=np.concatenate(parts)) for name, parts in found.items()}
