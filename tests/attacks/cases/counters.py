"""Counters of protected messages: skipped, swapped, used up (case 14)."""

from __future__ import annotations

from dkey.access.enrolled import Flow
from dkey.access.exchange import ExchangeRequest
from dkey.access.messages import Ins, command
from dkey.crypto.channel import SecureChannel
from dkey.crypto.secret import Secret
from dkey.errors import AuthenticationError, DkeyError

from .. import Broken, case
from .scene import Scene, attempt, failed, refusal, transact


@case(
    14,
    "protected commands that are skipped or swapped end the session",
    source="Aliro 1.0 §8.3.1.6; NIST SP 800-38D",
    broken=[
        Broken(
            module="dkey.access.device",
            old="""            log.debug("transaction failed: %s", quiet(exc))
        self._forget()
""",
            new="""            log.debug("transaction failed: %s", quiet(exc))
""",
            why="the device keeps the session after a command that does not verify",
        ),
    ],
)
def reordered_commands(seed: int) -> None:
    reader, phone = Scene(seed).fast()
    session = transact(reader, phone.answer, Flow.FAST)
    secure = SecureChannel(
        session.keys.exchange_reader, session.keys.exchange_device, is_reader=True
    )
    first, second, third = (
        command(Ins.EXCHANGE, secure.seal(ExchangeRequest().to_bytes())).to_bytes()
        for _ in range(3)
    )
    assert failed(phone.answer(second)), "the phone took the second command first"
    for late in (second, third, first):
        assert failed(phone.answer(late)), "the phone went on after commands in disorder"


@case(
    14,
    "answers in disorder end the reader's session",
    source="Aliro 1.0 §8.3.1.6; NIST SP 800-38D",
    broken=[
        Broken(
            module="dkey.access.session",
            old="""            self._channel.destroy()
            yield from control_flow(ControlFlow())
""",
            new="",
            why="the reader keeps the session after an answer that does not verify",
        ),
    ],
)
def damaged_answer(seed: int) -> None:
    scene = Scene(seed)
    reader, phone = scene.fast()
    session = transact(reader, phone.answer, Flow.FAST)

    def damaged(apdu: bytes) -> bytes:
        answer = bytearray(phone.answer(apdu))
        if apdu[1] == Ins.EXCHANGE:
            answer[scene.chance.randrange(len(answer) - 2)] ^= 1 << scene.chance.randrange(8)
        return bytes(answer)

    refused = attempt(session.exchange(ExchangeRequest()), damaged)
    assert isinstance(refused, AuthenticationError), "the reader took a damaged answer"
    sent: list[bytes] = []

    def listen(apdu: bytes) -> bytes:
        sent.append(apdu)
        return b"\x90\x00"

    attempt(session.exchange(ExchangeRequest()), listen)
    assert not [c for c in sent if c[1] == Ins.EXCHANGE], "the reader went on with dead keys"


@case(
    14,
    "no counter value protects two messages, and a channel ends before its counter does",
    source="Aliro 1.0 §8.3.3.5.4; NIST SP 800-38D",
    broken=[
        Broken(
            module="dkey.crypto.channel",
            old="self._out_count = count + 1",
            new="self._out_count = count",
            why="the sending counter is never raised",
        ),
        Broken(
            module="dkey.crypto.channel",
            old="        if self._out is None or count >= COUNTER_LIMIT:",
            new="        if self._out is None:",
            why="the sending end knows no limit",
        ),
        Broken(
            module="dkey.crypto.channel",
            old="COUNTER_LIMIT: Final = 0xFFFF",
            new="COUNTER_LIMIT: Final = 1 << 32",
            why="the limit is that of the IV, not that of the protocol",
        ),
        Broken(
            module="dkey.crypto.channel",
            old="self._out_count = count + 1",
            new="self._out_count = count + 1 & 0xFF",
            why="the counter wraps",
        ),
    ],
)
def counter_runs_out(seed: int) -> None:
    entropy = Scene(seed).entropy
    channel = SecureChannel(Secret(entropy.random(32)), Secret(entropy.random(32)), is_reader=True)
    seen: set[bytes] = set()
    for _ in range(0xFFFE):
        sealed = channel.seal(b"")
        assert sealed not in seen, "one IV protected two messages"
        seen.add(sealed)
    assert isinstance(refusal(channel.seal, b""), DkeyError), "the counter passed its limit"
    assert not channel.alive, "a channel that came to its end keeps its keys"
