"""A device that keeps nothing uses the key that it was given, however often it is read."""

from dkey.access.applet import AppletHost
from dkey.access.credential import DeviceCredential, TrustedReader
from dkey.access.device import AccessApplet
from dkey.access.directory import MemoryDirectory
from dkey.access.enrolled import EnrolledCredential, Flow, ReaderIdentity
from dkey.access.exchange import ReaderStatus
from dkey.access.profile import VEHICLE
from dkey.access.reader import AccessReader
from dkey.crypto.secret import Secret
from dkey.crypto.vault import MemoryVault
from dkey.link.driver import run_blocking
from dkey.testing import SeededEntropy

GROUP, SUB = b"g" * 16, b"s" * 16


def test_a_standard_transaction_does_not_displace_a_given_kpersistent():
    entropy = SeededEntropy("read only")
    given = Secret(b"k" * 32)
    reader_vault = MemoryVault(r=entropy.ephemeral())
    device_vault = MemoryVault(c=entropy.ephemeral())
    trusted = TrustedReader(group_id=GROUP, public_key=reader_vault.public("r"))
    credential = DeviceCredential(
        profile=VEHICLE,
        vault=device_vault,
        key="c",
        readers={GROUP: trusted},
        kpersistent={(GROUP, SUB): given},
    )
    identity = ReaderIdentity(
        profile=VEHICLE, group_id=GROUP, sub_id=SUB, vault=reader_vault, key="r"
    )
    known = EnrolledCredential(name="c", public_key=device_vault.public("c"), kpersistent=given)
    reader = AccessReader(identity, MemoryDirectory([known]), entropy)
    host = AppletHost([AccessApplet(credential, entropy, keep=False)])
    for flow in (Flow.STANDARD, Flow.FAST, Flow.STANDARD, Flow.FAST):
        session = run_blocking(reader.authenticate(flow), host.answer)
        run_blocking(session.complete(ReaderStatus.UNSECURE), host.answer)
        assert session.flow is flow
    assert credential.kpersistent == {(GROUP, SUB): given}
