"""What both sides agreed on, changed on the way (case 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dkey.access.enrolled import Flow
from dkey.access.messages import Auth0Command, Auth0Response, Ins
from dkey.access.profile import VEHICLE
from dkey.control.intent import encode_intent
from dkey.control.touch import Intent

from .. import Broken, case
from .scene import Scene, Wire, attempt, changed_command, changed_response

if TYPE_CHECKING:
    from collections.abc import Callable


def _auth0(**changes: Any) -> Callable[[bytes], bytes]:
    """Return a hook that changes fields of the AUTH0 command."""
    return changed_command(
        Ins.AUTH0, lambda data: replace(Auth0Command.parse(data), **changes).to_bytes()
    )


@case(
    4,
    "flags and policy that were changed on the way end the transaction",
    source="ProVerif mut1; TLS downgrades",
    broken=[
        Broken(
            module="dkey.access.schedule",
            old="                bytes((self.parameters, self.policy)),\n",
            new="",
            why="the salt leaves the AUTH0 parameters and the policy out",
        ),
    ],
)
def changed_parameters(seed: int) -> None:
    scene = Scene(seed)
    locked = scene.phone(user_authenticated=False)
    wire = Wire(locked.answer, commands=_auth0(policy=1))
    refused = attempt(scene.reader(policy=3).authenticate(Flow.STANDARD), wire)
    assert refused is not None, "a locked phone answered a reader that asked for the user"
    wire = Wire(scene.phone().answer, commands=_auth0(parameters=0x80))
    refused = attempt(scene.reader().authenticate(Flow.STANDARD), wire)
    assert refused is not None, "a changed parameter byte passed"
    reader, phone = scene.fast()
    noise = scene.chance.randbytes(64)
    wire = Wire(
        phone.answer,
        commands=_auth0(parameters=0),
        responses=changed_response(
            Ins.AUTH0, lambda data: replace(Auth0Response.parse(data), cryptogram=noise).to_bytes()
        ),
    )
    refused = attempt(reader.authenticate(Flow.AUTO), wire)
    assert refused is not None, "the fast flag was stripped and nobody noticed"


@case(
    4,
    "a protocol version that was taken out of the device's offer ends the transaction",
    source="TLS downgrades; Aliro 1.0 §8.3.1.12",
    broken=[
        Broken(
            module="dkey.access.schedule",
            old="                self.a5,\n                credential_x,\n",
            new="                credential_x,\n",
            why="the salt leaves the device's offer out",
        ),
    ],
)
def stripped_version(seed: int) -> None:
    scene = Scene(seed, profile=replace(VEHICLE, versions=(b"\x01\x01", b"\x01\x00")))
    whole = b"\x5c\x04\x01\x01\x01\x00"

    def strip(fci: bytes) -> bytes:
        at = fci.index(whole)
        cut = bytearray(fci[:at] + b"\x5c\x02\x01\x00" + fci[at + len(whole) :])
        cut[1] -= 2  # 6F
        cut[cut.index(0xA5, 4 + cut[3]) + 1] -= 2
        return bytes(cut)

    wire = Wire(scene.phone().answer, responses=changed_response(Ins.SELECT, strip))
    refused = attempt(scene.reader().authenticate(Flow.STANDARD), wire)
    if not wire.count(Ins.AUTH0):
        raise RuntimeError("the changed SELECT response is malformed")
    assert refused is not None, "the two sides agreed on an older version than they could"


@case(
    4,
    "a protocol version that was changed in AUTH0 ends the transaction",
    source="TLS downgrades; Aliro 1.0 §8.3.1.12",
    broken=[
        Broken(
            module="dkey.access.schedule",
            old="                self.version,\n",
            new="",
            why="the salt leaves the selected version out",
        ),
    ],
)
def changed_version(seed: int) -> None:
    scene = Scene(seed, profile=replace(VEHICLE, versions=(b"\x01\x01", b"\x01\x00")))
    wire = Wire(scene.phone().answer, commands=_auth0(version=b"\x01\x00"))
    refused = attempt(scene.reader().authenticate(Flow.STANDARD), wire)
    assert refused is not None, "the two sides speak different versions without noticing"


@case(
    4,
    "a wish to lock cannot be turned into a wish to unlock",
    source="specs/vehicle-profile.md §4",
    broken=[
        Broken(
            module="dkey.access.schedule",
            old="return self.device_ephemeral_x + self.extensions",
            new="return self.device_ephemeral_x",
            why="the key schedule leaves the vendor extensions out",
        ),
    ],
)
def swapped_intent(seed: int) -> None:
    lock, unlock = encode_intent(Intent.LOCK), encode_intent(Intent.UNLOCK)
    for flow in (Flow.STANDARD, Flow.FAST):
        for changed in (unlock, b""):
            reader, phone = Scene(seed).fast(extension=lock)
            swap = changed_response(
                Ins.AUTH0,
                lambda data, new=changed: replace(
                    Auth0Response.parse(data), extension=new
                ).to_bytes(),
            )
            wire = Wire(phone.answer, responses=swap)
            refused = attempt(reader.authenticate(flow), wire)
            assert refused is not None, "the vehicle acts on a wish that nobody had"
