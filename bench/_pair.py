"""The product under the bench: both roles in one process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from _floor import STATUS

from dkey.access.applet import AppletHost
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.device import AccessApplet
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.profile import VEHICLE
from dkey.access.reader import AccessReader
from dkey.crypto.entropy import SystemEntropy
from dkey.crypto.p256 import PrivateKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.link.driver import run_blocking

if TYPE_CHECKING:
    from collections.abc import Generator

    from dkey.access.session import Session

__all__ = ["ENTROPY", "Pair"]

ENTROPY = SystemEntropy()


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
