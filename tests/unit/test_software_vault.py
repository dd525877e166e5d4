"""The software vault: sealed at rest, refusing what was damaged, safe for several writers."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dkey.crypto.entropy import SystemEntropy
from dkey.crypto.p256 import ORDER, PrivateKey
from dkey.crypto.secret import Secret
from dkey.crypto.vault.software import SoftwareVault, create_key_file
from dkey.errors import EntropyError, LocalFault, VaultError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.crypto.vault import Vault

ENTROPY = SystemEntropy()
SCALAR = Secret(bytes(31) + b"\x09")
DIGEST = sha256(b"data").digest()


class Stuck:
    """A random source that repeats its bytes."""

    def ephemeral(self) -> PrivateKey:
        return PrivateKey.generate()

    def random(self, size: int) -> bytes:
        return b"\x5a" * size


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "kek"
    create_key_file(path, ENTROPY)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.vault"


@pytest.fixture
def vault(path: Path, key_file: Path) -> SoftwareVault:
    return SoftwareVault.create(path, key_file=key_file, entropy=ENTROPY)


@pytest.fixture
def reopen(path: Path, key_file: Path) -> Callable[[], SoftwareVault]:
    return lambda: SoftwareVault.open(path, key_file=key_file, entropy=ENTROPY)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_it_is_a_vault(vault: SoftwareVault) -> None:
    as_vault: Vault = vault
    public = vault.generate("a")
    public.verify(as_vault.sign("a", sha256(b"m").digest()), b"m")


def test_a_generated_key_signs_and_agrees_after_it_is_opened_again(
    vault: SoftwareVault, reopen: Callable[[], SoftwareVault]
) -> None:
    public = vault.generate("device")
    again = reopen()
    assert again.public("device") == public
    public.verify(again.sign("device", DIGEST), b"data")
    peer = PrivateKey.generate()
    assert again.agree("device", peer.public) == peer.agree(public)


def test_an_imported_scalar_is_that_key(vault: SoftwareVault) -> None:
    assert vault.import_scalar("a", SCALAR) == PrivateKey.from_scalar(SCALAR.reveal()).public


@pytest.mark.parametrize("scalar", [b"", bytes(32), ORDER.to_bytes(32, "big"), bytes(31)])
def test_an_impossible_scalar_is_refused(vault: SoftwareVault, scalar: bytes) -> None:
    with pytest.raises(LocalFault):
        vault.import_scalar("a", Secret(scalar))
    assert vault.names() == []


def test_names_are_sorted(vault: SoftwareVault) -> None:
    for name in ("b", "a", "ü c"):
        vault.generate(name)
    assert vault.names() == ["a", "b", "ü c"]


def test_a_deleted_key_is_gone(vault: SoftwareVault, reopen: Callable[[], SoftwareVault]) -> None:
    vault.generate("a")
    vault.public("a")
    vault.delete("a")
    for each in (vault, reopen()):
        assert each.names() == []
        with pytest.raises(VaultError, match="'a'"):
            each.sign("a", DIGEST)


def test_an_unknown_key_is_named_with_the_keys_there_are(vault: SoftwareVault) -> None:
    vault.generate("here")
    for call in (vault.public, vault.delete, lambda name: vault.sign(name, DIGEST)):
        with pytest.raises(VaultError) as caught:
            call("gone")
        assert "here" in (caught.value.hint or "")


def test_a_name_is_taken_once(vault: SoftwareVault) -> None:
    public = vault.generate("a")
    with pytest.raises(VaultError, match="already"):
        vault.generate("a")
    assert vault.public("a") == public


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "\x00", "\ud800"])
def test_a_name_is_short_and_printable(vault: SoftwareVault, name: str) -> None:
    with pytest.raises(VaultError, match="name"):
        vault.generate(name)


def test_a_passphrase_opens_its_vault(path: Path) -> None:
    made = SoftwareVault.create(path, passphrase=Secret(b"tree"), entropy=ENTROPY)
    public = made.generate("a")
    again = SoftwareVault.open(path, passphrase=Secret(b"tree"), entropy=ENTROPY)
    assert again.public("a") == public


def test_a_wrong_passphrase_is_said_to_be_one_even_for_an_empty_vault(path: Path) -> None:
    SoftwareVault.create(path, passphrase=Secret(b"tree"), entropy=ENTROPY)
    with pytest.raises(VaultError, match="passphrase does not open"):
        SoftwareVault.open(path, passphrase=Secret(b"Tree"), entropy=ENTROPY)


def test_scrypt_has_the_stated_parameters(path: Path) -> None:
    SoftwareVault.create(path, passphrase=Secret(b"tree"), entropy=ENTROPY)
    kek = json.loads(path.read_text())["kek"]
    assert (kek["kind"], kek["n"], kek["r"], kek["p"]) == ("scrypt", 32768, 8, 1)
    assert len(bytes.fromhex(kek["salt"])) == 16


def test_another_key_file_does_not_open(path: Path, vault: SoftwareVault, tmp_path: Path) -> None:
    create_key_file(tmp_path / "other", ENTROPY)
    with pytest.raises(VaultError, match="key file does not open"):
        SoftwareVault.open(path, key_file=tmp_path / "other", entropy=ENTROPY)


def test_there_is_no_vault_without_a_passphrase_or_key_file(path: Path) -> None:
    with pytest.raises(VaultError, match="exactly one"):
        SoftwareVault.create(path, entropy=ENTROPY)
    assert not path.exists()


def test_a_vault_is_not_opened_without_a_passphrase_or_key_file(
    path: Path, vault: SoftwareVault
) -> None:
    with pytest.raises(VaultError, match="exactly one"):
        SoftwareVault.open(path, entropy=ENTROPY)


def test_a_passphrase_and_a_key_file_together_are_refused(path: Path, key_file: Path) -> None:
    with pytest.raises(VaultError, match="exactly one"):
        SoftwareVault.create(path, passphrase=Secret(b"x"), key_file=key_file, entropy=ENTROPY)


def test_an_empty_passphrase_is_refused(path: Path) -> None:
    with pytest.raises(VaultError, match="empty"):
        SoftwareVault.create(path, passphrase=Secret(b""), entropy=ENTROPY)


def test_the_wrong_kind_of_opening_says_which_is_needed(
    path: Path, vault: SoftwareVault, tmp_path: Path, key_file: Path
) -> None:
    with pytest.raises(VaultError, match="sealed with a key file"):
        SoftwareVault.open(path, passphrase=Secret(b"x"), entropy=ENTROPY)
    other = tmp_path / "other.vault"
    SoftwareVault.create(other, passphrase=Secret(b"x"), entropy=ENTROPY)
    with pytest.raises(VaultError, match="sealed with a passphrase"):
        SoftwareVault.open(other, key_file=key_file, entropy=ENTROPY)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o601])
def test_a_key_file_open_to_others_is_refused_with_the_fix(
    path: Path, vault: SoftwareVault, key_file: Path, mode: int
) -> None:
    key_file.chmod(mode)
    with pytest.raises(VaultError) as caught:
        SoftwareVault.open(path, key_file=key_file, entropy=ENTROPY)
    assert caught.value.hint == f"chmod 600 {key_file}"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_file_of_another_size_is_refused(path: Path, key_file: Path, size: int) -> None:
    key_file.write_bytes(bytes(size))
    with pytest.raises(VaultError, match="32 bytes"):
        SoftwareVault.create(path, key_file=key_file, entropy=ENTROPY)


def test_a_key_file_is_new_random_and_private(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    create_key_file(one, ENTROPY)
    create_key_file(two, ENTROPY)
    assert one.stat().st_mode & 0o777 == 0o600
    assert one.read_bytes() != two.read_bytes()
    with pytest.raises(VaultError):
        create_key_file(one, ENTROPY)


def test_the_files_are_private_whatever_the_umask(tmp_path: Path, key_file: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "open.vault"
        SoftwareVault.create(path, key_file=key_file, entropy=ENTROPY).generate("a")
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_the_scalar_is_nowhere_in_the_file(path: Path, vault: SoftwareVault) -> None:
    scalar = PrivateKey.generate().scalar()
    vault.import_scalar("a", scalar)
    content = path.read_bytes()
    assert scalar.reveal() not in content
    assert scalar.reveal().hex().encode() not in content


def test_no_text_form_shows_a_key(vault: SoftwareVault) -> None:
    vault.import_scalar("a", SCALAR)
    vault.public("a")
    assert SCALAR.reveal().hex() not in repr(vault) + str(vars(vault))


def test_an_existing_vault_is_not_created_over(
    path: Path, vault: SoftwareVault, key_file: Path
) -> None:
    vault.generate("a")
    with pytest.raises(VaultError, match="exists"):
        SoftwareVault.create(path, key_file=key_file, entropy=ENTROPY)
    assert vault.names() == ["a"]


@pytest.mark.parametrize("member", ["public", "nonce", "sealed"])
def test_a_damaged_entry_refuses_and_says_what_to_do(
    path: Path, vault: SoftwareVault, reopen: Callable[[], SoftwareVault], member: str
) -> None:
    vault.generate("good")
    vault.generate("bad")

    def damage(document: dict[str, Any]) -> None:
        value = bytearray.fromhex(document["keys"][1][member])
        value[-1] ^= 1
        document["keys"][1][member] = value.hex()

    edit(path, damage)
    again = reopen()
    for call in (again.public, lambda name: again.sign(name, DIGEST)):
        with pytest.raises(VaultError, match="'bad'") as caught:
            call("bad")
        assert "backup" in (caught.value.hint or "")
    again.sign("good", DIGEST)


def test_a_renamed_entry_refuses(
    path: Path, vault: SoftwareVault, reopen: Callable[[], SoftwareVault]
) -> None:
    vault.generate("a")
    edit(path, lambda document: document["keys"][0].update(name="b"))
    with pytest.raises(VaultError, match="renamed"):
        reopen().public("b")


def test_swapped_entries_refuse(
    path: Path, vault: SoftwareVault, reopen: Callable[[], SoftwareVault]
) -> None:
    vault.generate("a")
    vault.generate("b")

    def swap(document: dict[str, Any]) -> None:
        one, two = document["keys"]
        one["name"], two["name"] = two["name"], one["name"]

    edit(path, swap)
    for name in ("a", "b"):
        with pytest.raises(VaultError, match="swapped"):
            reopen().sign(name, DIGEST)


def test_an_entry_of_another_vault_under_the_same_key_file_refuses(
    path: Path,
    vault: SoftwareVault,
    key_file: Path,
    tmp_path: Path,
    reopen: Callable[[], SoftwareVault],
) -> None:
    vault.generate("a")
    other_path = tmp_path / "other.vault"
    SoftwareVault.create(other_path, key_file=key_file, entropy=ENTROPY).generate("a")
    foreign = json.loads(other_path.read_text())["keys"]
    edit(path, lambda document: document.update(keys=foreign))
    with pytest.raises(VaultError):
        reopen().public("a")


def test_an_open_vault_notices_a_damaged_entry_after_it_used_the_key(
    path: Path, vault: SoftwareVault
) -> None:
    vault.generate("a")
    vault.public("a")
    edit(path, lambda document: document["keys"][0].update(sealed="00" * 48))
    with pytest.raises(VaultError):
        vault.public("a")


@pytest.mark.parametrize(
    "change",
    [
        {"n": 1 << 17},  # 128 MiB
        {"n": 1 << 40},
        {"n": 2, "r": 1 << 18},
        {"n": 2, "r": 64},
        {"p": 5},
        {"n": 3},
        {"n": 0},
        {"n": 1},
        {"n": -32768},
        {"r": 0},
        {"p": 0},
        {"n": "32768"},
        {"n": 32768.0},
        {"r": True},
        {"n": 1 << 16, "r": 1},  # scrypt itself refuses
        {"salt": ""},
        {"salt": "0" * 30},
        {"kind": "plain"},
        {"kind": None},
        {"extra": 1},
    ],
)
def test_hostile_scrypt_parameters_are_refused(path: Path, change: dict[str, Any]) -> None:
    SoftwareVault.create(path, passphrase=Secret(b"tree"), entropy=ENTROPY)
    edit(path, lambda document: document["kek"].update(change))
    with pytest.raises(VaultError) as caught:
        SoftwareVault.open(path, passphrase=Secret(b"tree"), entropy=ENTROPY)
    assert "does not open" not in str(caught.value)


def test_changed_scrypt_parameters_within_the_bounds_do_not_open(path: Path) -> None:
    SoftwareVault.create(path, passphrase=Secret(b"tree"), entropy=ENTROPY)
    edit(path, lambda document: document["kek"].update(n=65536))
    with pytest.raises(VaultError, match="does not open"):
        SoftwareVault.open(path, passphrase=Secret(b"tree"), entropy=ENTROPY)


def test_a_file_over_one_mebibyte_is_refused_unread(
    path: Path, vault: SoftwareVault, reopen: Callable[[], SoftwareVault]
) -> None:
    path.write_bytes(path.read_bytes().ljust(1 << 20))
    reopen()
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(VaultError, match="1048576"):
        reopen()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"1",
        b'"text"',
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"schema": "dkey.vault/2"}',
        b'{"schema": "dkey.vault/1", "kek": {}, "check": {}, "keys": []}',
        b" " * ((1 << 20) + 1),
    ],
)
def test_a_file_of_another_form_is_refused(path: Path, key_file: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(VaultError) as caught:
        SoftwareVault.open(path, key_file=key_file, entropy=ENTROPY)
    assert caught.value.hint


@pytest.mark.parametrize(
    "keys",
    [
        None,
        {},
        "ab",
        [1],
        [{"name": "a"}],
        [{"name": 1, "public": "00" * 65, "nonce": "00" * 12, "sealed": "00" * 48}],
        [{"name": "a", "public": "0g" * 65, "nonce": "00" * 12, "sealed": "00" * 48}],
        [{"name": "a", "public": "00" * 64, "nonce": "00" * 12, "sealed": "00" * 48}],
        [{"name": "a", "public": "00" * 65, "nonce": "00 " * 12, "sealed": "00" * 48}],
        [{"name": "a", "public": "00" * 65, "nonce": "00" * 12, "sealed": "00" * 48}] * 2,
    ],
)
def test_a_malformed_list_of_keys_is_refused(
    path: Path, vault: SoftwareVault, reopen: Callable[[], SoftwareVault], keys: Any
) -> None:
    edit(path, lambda document: document.update(keys=keys))
    with pytest.raises(VaultError, match="not a vault file"):
        reopen()


def test_a_file_cut_at_any_byte_is_refused(
    path: Path, vault: SoftwareVault, reopen: Callable[[], SoftwareVault]
) -> None:
    vault.generate("a")
    whole = path.read_bytes().rstrip()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(VaultError):
            reopen()


def test_a_missing_file_or_directory_is_a_vault_error(tmp_path: Path, key_file: Path) -> None:
    with pytest.raises(VaultError):
        SoftwareVault.open(tmp_path / "none", key_file=key_file, entropy=ENTROPY)
    with pytest.raises(VaultError):
        SoftwareVault.open(tmp_path / "none", key_file=tmp_path / "no kek", entropy=ENTROPY)
    with pytest.raises(VaultError):
        SoftwareVault.create(tmp_path / "no" / "dir", key_file=key_file, entropy=ENTROPY)


def test_two_open_vaults_do_not_lose_each_others_keys(
    vault: SoftwareVault, reopen: Callable[[], SoftwareVault]
) -> None:
    other = reopen()
    vault.generate("a")
    other.generate("b")
    vault.generate("c")
    other.delete("a")
    assert vault.names() == other.names() == reopen().names() == ["b", "c"]


def test_a_key_deleted_elsewhere_stops_working_here(
    vault: SoftwareVault, reopen: Callable[[], SoftwareVault]
) -> None:
    vault.generate("a")
    vault.sign("a", DIGEST)
    reopen().delete("a")
    with pytest.raises(VaultError):
        vault.sign("a", DIGEST)


def test_a_key_replaced_elsewhere_is_the_new_one_here(
    vault: SoftwareVault, reopen: Callable[[], SoftwareVault]
) -> None:
    vault.generate("a")
    vault.public("a")
    other = reopen()
    other.delete("a")
    replacement = other.generate("a")
    assert vault.public("a") == replacement


def test_many_writers_at_once_lose_nothing(
    vault: SoftwareVault, reopen: Callable[[], SoftwareVault]
) -> None:
    def write(worker: int) -> None:
        mine = reopen()
        for n in range(5):
            mine.generate(f"{worker}-{n}")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(vault.names()) == 30
    for name in vault.names():
        vault.public(name)


def test_a_lock_that_is_never_released_ends_in_an_error(
    path: Path, vault: SoftwareVault, key_file: Path
) -> None:
    hasty = SoftwareVault.open(path, key_file=key_file, entropy=ENTROPY, lock_wait_s=0.0)
    with path.with_name(path.name + ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(VaultError, match="another process"):
            hasty.generate("a")
    hasty.generate("a")


def test_a_vault_replaced_by_another_one_is_refused(
    path: Path, vault: SoftwareVault, key_file: Path
) -> None:
    vault.generate("a")
    path.unlink()
    SoftwareVault.create(path, key_file=key_file, entropy=ENTROPY)
    with pytest.raises(VaultError, match="by another one"):
        vault.sign("a", DIGEST)


def test_a_rest_of_an_interrupted_write_is_no_obstacle(path: Path, vault: SoftwareVault) -> None:
    path.with_name(path.name + ".new").write_bytes(b"half a fi")
    vault.generate("a")
    assert vault.names() == ["a"]


def test_a_failed_write_leaves_the_old_vault(
    path: Path,
    vault: SoftwareVault,
    reopen: Callable[[], SoftwareVault],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vault.generate("a")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(VaultError, match="No space left"):
            vault.generate("b")
    assert vault.names() == reopen().names() == ["a"]


def test_the_new_file_is_durable_before_it_gets_its_name(
    path: Path, vault: SoftwareVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    fsync, rename = os.fsync, Path.replace

    def note_fsync(handle: int) -> None:
        events.append("fsync " + Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def note_replace(self: Path, target: Path) -> Path:
        events.append("replace")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    vault.generate("a")
    assert events == ["fsync keys.vault.new", "replace", f"fsync {path.parent.name}"]


def test_a_repeated_nonce_is_refused_and_nothing_is_written(path: Path, key_file: Path) -> None:
    vault = SoftwareVault.create(path, key_file=key_file, entropy=Stuck())
    with pytest.raises(EntropyError):
        vault.generate("a")
    assert vault.names() == []


def test_a_vault_behind_a_symbolic_link_stays_behind_it(
    path: Path, vault: SoftwareVault, key_file: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    SoftwareVault.open(link, key_file=key_file, entropy=ENTROPY).generate("a")
    assert link.is_symlink()
    assert vault.names() == ["a"]
