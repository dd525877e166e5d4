"""What logs, traces, texts and errors show of the keys of a run (case 35)."""

from __future__ import annotations

import base64
import logging
import pickle
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from dkey.access.enrolled import Flow
from dkey.access.exchange import ExchangeRequest, ReaderStatus
from dkey.access.messages import Ins
from dkey.errors import DkeyError
from dkey.link.driver import run_blocking
from dkey.trace.tracer import Tracer

from .. import Broken, case
from .scene import Impostor, Phone, Scene, Wire, changed_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dkey.access.reader import AccessReader
    from dkey.access.session import Session
    from dkey.crypto.p256 import PrivateKey
    from dkey.crypto.secret import Secret


class _Witnessed:
    """A random source that remembers the keys it gave."""

    def __init__(self, scene: Scene) -> None:
        self._inner = scene.entropy
        self.scalars: list[bytes] = []

    def ephemeral(self) -> PrivateKey:
        key = self._inner.ephemeral()
        self.scalars.append(key.scalar().reveal())
        return key

    def random(self, size: int) -> bytes:
        return self._inner.random(size)


class _Everything(logging.Handler):
    """Keeps the text of every log record, with its arguments and its traceback."""

    def __init__(self) -> None:
        super().__init__(level=1)
        self.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s %(exc_info)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class _Run:
    """Transactions of which everything visible is kept, and every secret."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.scene = Scene(seed)
        self.entropy = _Witnessed(self.scene)
        self.texts: list[str] = []
        self.secrets: dict[str, bytes] = {
            "reader key": self.scene.reader_key.scalar().reveal(),
            "owner key": self.scene.owner_key.scalar().reveal(),
        }
        self.phone: Phone = self.scene.phone(entropy=self.entropy)
        self.directory = self.scene.directory()
        self.reader: AccessReader = self.scene.reader(self.directory, entropy=self.entropy)
        self.secrets["kpersistent"] = self.scene.know(self.phone, self.directory).reveal()
        now_ns = iter(range(1, 1 << 40))
        self.tracer = Tracer(folder / "run", clock_ns=lambda: next(now_ns))

    def transact(self, flow: Flow, answer: Callable[[bytes], bytes]) -> None:
        """Run one transaction and look at it from all sides, whether it succeeds or fails."""

        def tapped(command: bytes) -> bytes:
            response = answer(command)
            self.tracer.apdu(from_reader=True, data=command)
            self.tracer.apdu(from_reader=False, data=response)
            return response

        try:
            session = run_blocking(self.reader.authenticate(flow), tapped)
            self.look(session)
            run_blocking(session.exchange(ExchangeRequest()), tapped)
            run_blocking(session.complete(ReaderStatus.UNSECURE), tapped)
        except DkeyError as exc:
            self.texts += [repr(exc), str(exc), str(exc.hint), repr(vars(exc))]
            lines = traceback.TracebackException.from_exception(exc, capture_locals=True)
            self.texts += list(lines.format())
        self.show(self.reader, self.phone.credential, self.phone.applet, *self.directory)
        self.show(self.phone.applet.events, self.phone.credential.vault, self.scene.owner_key)
        for event in self.phone.applet.events:
            if event.kpersistent is not None:
                self.secrets[f"kpersistent {len(self.secrets)}"] = event.kpersistent.reveal()

    def look(self, session: Session) -> None:
        """Take note of a session's keys and keep what it shows."""
        keys = session.keys
        found: dict[str, Secret | None] = {
            "exchange reader": keys.exchange_reader,
            "exchange device": keys.exchange_device,
            "ble": keys.ble,
            "ursk": keys.ursk,
        }
        if session.flow is Flow.STANDARD:
            found["step up"] = keys.step_up
            found["kpersistent new"] = session.kpersistent
        else:
            found["cryptogram"] = keys.cryptogram
        for name, secret in found.items():
            if secret is not None:
                self.secrets[f"{session.flow.value} {name} {len(self.secrets)}"] = secret.reveal()
                self.show(secret)
        self.tracer.note(f"session {session!r} {keys!r}")
        self.tracer.keys({name: s.reveal() for name, s in found.items() if s is not None})
        self.show(session, keys, session.kpersistent, session.credential, vars(session))

    def show(self, *values: object) -> None:
        """Keep what values say of themselves."""
        for value in values:
            self.texts += [repr(value), str(value), f"{value}", f"{value!a:>9}"]


def _forms(secret: bytes) -> Iterator[bytes]:
    """Yield how the halves of a secret may look in a file."""
    for part in (secret[:16], secret[-16:]):
        for way in (part, part[::-1]):
            text = way.hex()
            yield way
            yield text.encode()
            yield text.upper().encode()
            for glue in (":", " "):
                yield way.hex(glue).encode()
            yield repr(way)[2:-1].encode()
            yield repr(list(way))[1:-1].encode()
            yield text[::-1].encode()
            for shift in range(3):  # base64 of something that contains the secret
                for encode in (base64.b64encode, base64.urlsafe_b64encode):
                    yield encode(bytes(shift) + way)[4:-4]
    yield str(int.from_bytes(secret, "big")).encode()


def _found(secrets: dict[str, bytes], places: Iterable[tuple[str, bytes]]) -> list[str]:
    return [
        f"{name} in {place}"
        for place, text in places
        for name, secret in secrets.items()
        if any(form in text for form in _forms(secret))
    ]


@case(
    35,
    "no log line, trace, text or error of a run shows one of its secrets",
    source="kormax README: raw logs",
    broken=[
        Broken(
            module="dkey.crypto.secret",
            old='        return f"<{len(self._value)} secret bytes>"',
            new='        return f"<secret {self._value.hex()}>"',
            why="a secret shows its value",
        ),
        Broken(
            module="dkey.access.device",
            old="""            log.debug("transaction failed: %s", quiet(exc))
""",
            new="""            log.debug("transaction failed: %s", quiet(exc))
            if self._now is not None and self._now.keys is not None:
                log.debug("keys were %s", self._now.keys.exchange_reader.reveal().hex())
""",
            why="a log line helps to decrypt the failed transaction",
        ),
        Broken(
            module="dkey.access.schedule",
            old="""        return f"<session keys: {', '.join(self._at)}>\"""",
            new="""        return f"<session keys: {self._block!r}>\"""",
            why="the session keys show their block",
        ),
        Broken(
            module="dkey.trace.tracer",
            old="        if not self._show_secrets:\n            return\n",
            new="",
            why="the tracer writes keys without being told to",
        ),
        Broken(
            module="dkey.crypto.p256",
            old='        return f"PrivateKey(of {self.public!r})"',
            new='        return f"PrivateKey({self._key.private_numbers().private_value})"',
            why="a private key shows its number",
        ),
        Broken(
            module="dkey.access.reader",
            old='raise AuthenticationError("no stored Kpersistent matches the device")',
            new="raise AuthenticationError("
            'f"no match among {[c.kpersistent.reveal() for c in candidates]}")',
            why="an error text carries the keys that were tried",
        ),
    ],
)
def secrets_stay_secret(seed: int) -> None:
    root = logging.getLogger()
    handler, level = _Everything(), root.level
    root.addHandler(handler)
    root.setLevel(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run = _Run(seed, folder)
            _transactions(run)
            run.tracer.close()
            traces = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    run.secrets.update({f"ephemeral {n}": s for n, s in enumerate(run.entropy.scalars)})
    if not handler.lines or len(traces) != 2 or len(run.secrets) < 12:
        raise RuntimeError("the run made no logs, traces or secrets: the case shows nothing")
    places = [
        *traces,
        ("the log", "\n".join(handler.lines).encode("utf-8", "surrogateescape")),
        ("a text", "\n".join(run.texts).encode("utf-8", "surrogateescape")),
    ]
    leaks = _found(run.secrets, places)
    assert not leaks, f"secrets are visible: {leaks}"


def _transactions(run: _Run) -> None:
    """Run what succeeds, then what fails in each of several ways."""
    chance = run.scene.chance
    for flow in (Flow.FAST, Flow.STANDARD):
        run.transact(flow, run.phone.answer)

    def damage(ins: Ins) -> Wire:
        at = chance.randrange(16)
        return Wire(
            run.phone.answer,
            responses=changed_response(
                ins,
                lambda data: data[: -1 - at] + bytes((data[-1 - at] ^ 1,)) + data[len(data) - at :],
            ),
        )

    for flow in (Flow.FAST, Flow.STANDARD):
        run.transact(flow, damage(Ins.AUTH0))
        run.transact(flow, damage(Ins.EXCHANGE))
    run.transact(Flow.STANDARD, damage(Ins.AUTH1))
    run.transact(Flow.STANDARD, Impostor(run.scene, lambda _, sig: b"\x5e\x02\x00\x00").answer)
    run.transact(Flow.FAST, Impostor(run.scene, lambda _, sig: b"").answer)
    run.secrets["kpersistent again"] = run.scene.know(run.phone, run.directory).reveal()
    # Commands that the phone cannot make sense of, with keys established.
    for stray in (
        b"\x80\xc9\x00\x00\x04",
        b"\x80\xc9\x00\x00\x02\x00\x00\x00",
        b"\x80\x01\x00\x00",
    ):
        session = run_blocking(run.reader.authenticate(Flow.FAST), run.phone.answer)
        run.look(session)
        run.phone.answer(stray)


@case(
    35,
    "a secret cannot be pickled, copied into a hash or joined to a text",
    source="keys in crash dumps and caches",
    broken=[
        Broken(
            module="dkey.crypto.secret",
            old='raise TypeError("a secret is never pickled or copied;',
            new="return (Secret, (self._value,))\n"
            '        raise TypeError("a secret is never pickled or copied;',
            why="secrets may be pickled",
        ),
    ],
)
def secrets_do_not_travel(seed: int) -> None:
    scene = Scene(seed)
    secret = scene.owner_key.scalar()
    for call in (pickle.dumps, hash, lambda s: "%s %r" % (s, s), lambda s: f"{s:>40}"):  # noqa: UP031
        try:
            said = call(secret)
        except TypeError:
            continue
        text = said if isinstance(said, bytes) else str(said).encode()
        assert not _found({"key": secret.reveal()}, [("text", text)]), "a secret left as text"
