"""Readers with certificates, genuine and forged, for the cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dkey.access.certificate import ReaderCertificate
from dkey.crypto.vault import MemoryVault

if TYPE_CHECKING:
    from dkey.access.reader import AccessReader
    from dkey.crypto.p256 import PrivateKey

    from .scene import Scene


def certified_reader(
    scene: Scene, *, issuer: PrivateKey | None = None, forged: bool = False, **changes: Any
) -> AccessReader:
    """Return a reader with a certificate.

    Args:
        scene: The vehicle; its issuer signs unless another one is given.
        issuer: Who signs the certificate.
        forged: The certificate is the genuine reader's, the private key is not.
        changes: Fields of the reader's identity; ``private_key`` makes another reader.
    """
    signer = issuer or scene.issuer_key
    own = changes.get("private_key", scene.reader_key)
    subject = scene.reader_key if forged else own
    certificate = ReaderCertificate.issue(
        MemoryVault(issuer=signer), "issuer", signer.public, subject.public
    ).compress()
    identity = scene.identity(
        certificate=certificate, issuer_key=scene.issuer_key.public, **changes
    )
    return scene.reader(identity=identity)
