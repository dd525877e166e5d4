"""``dkey relay run`` as a process: what it has said yes to outlives it, however it ends."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dkey.relay.client import RelayClient
from dkey.relay.messages import Create, Payload
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 30
DKEY = [sys.executable, "-W", "error", "-m", "dkey", "relay", "run"]


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DKEY, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def relay(*words: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = start("--json", *words)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)


def invitation(number: int = 0) -> Create:
    data = number.to_bytes(4, "big") * 10
    return Create(
        payload=Payload(algorithm="AEAD_AES_128_GCM", data=data), expires_s=int(time.time()) + 3600
    )


def device(url: str, http: httpx.Client, claim: int = 1) -> RelayClient:
    return RelayClient(url, claim=uuid.UUID(int=claim), entropy=SeededEntropy(url), http=http)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=DEADLINE_S) as http:
        yield http


def test_killed_at_once_it_keeps_all_that_it_acknowledged(tmp_path, http):
    kept, bound = {}, None
    with relay("--state", tmp_path / "relay") as (process, ready):
        owner = device(ready["url"], http)
        for number in range(20):
            kept[owner.create(invitation(number))] = number
        bound = next(iter(kept))
        device(ready["url"], http, claim=2).read(bound)
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
    with relay("--state", tmp_path / "relay") as (_, ready):
        owner, friend = device(ready["url"], http), device(ready["url"], http, claim=2)
        for mailbox, number in kept.items():
            assert owner.read(mailbox).payload == invitation(number).payload
        assert friend.read(bound).payload == invitation(0).payload
        third = http.post(
            f"{ready['url']}/v1/m/{bound}", headers={"Mailbox-Device-Claim": str(uuid.UUID(int=3))}
        )
        assert third.status_code == 403


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_ends_with_0_and_says_nothing(tmp_path, http, number):
    with relay("--state", tmp_path / "relay") as (process, ready):
        device(ready["url"], http).create(invitation())
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_first_line_tells_schema_address_and_port(tmp_path):
    with relay("--state", tmp_path / "relay") as (_, ready):
        assert ready["schema"] == "dkey.relay/1"
        assert ready["url"] == f"http://127.0.0.1:{ready['port']}"


@pytest.mark.parametrize("host", ["0.0.0.0:0", "[::]:0", "localhost.example:0"])
def test_without_a_certificate_it_does_not_listen_for_others(tmp_path, host):
    process = start("--listen", host, "--state", tmp_path / "relay")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert "certificate" in err


def test_a_port_that_is_taken_is_a_link_error(tmp_path):
    with relay("--state", tmp_path / "one") as (_, ready):
        process = start("--listen", f"127.0.0.1:{ready['port']}", "--state", tmp_path / "two")
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3
    assert "cannot listen" in err


@pytest.mark.parametrize("words", [(), ("--proxy", "192.0.2.7"), ("--proxy", "127.0.0.1")])
def test_only_the_named_proxy_is_believed_about_who_asks(tmp_path, http, words):
    with relay("--state", tmp_path / "relay", *words) as (_, ready):
        asked = {
            http.get(
                f"{ready['url']}/v1/m/none", headers={"X-Forwarded-For": f"198.51.100.{number}"}
            ).status_code
            for number in range(150)
        }
    assert asked == ({404} if "127.0.0.1" in words else {404, 429})


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "relay")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, private


def test_with_a_certificate_it_serves_tls(tmp_path):
    chain, key = certificate(tmp_path)
    words = ("--state", tmp_path / "relay", "--certificate", chain, "--key", key)
    context = ssl.create_default_context(cafile=str(chain))
    with (
        relay(*words) as (_, ready),
        httpx.Client(verify=context, trust_env=False, timeout=DEADLINE_S) as http,
    ):
        assert ready["url"].startswith("https://127.0.0.1:")
        owner = device(ready["url"], http)
        assert owner.read(owner.create(invitation())).payload == invitation().payload
