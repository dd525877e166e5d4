"""The checker of known-answer files: what it agrees with, and that it notices a changed byte.

The files are third-party sets in the shared ``vectors`` folder beside the repository; without it
these tests skip.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dkey.conformance.vectors import check_file
from dkey.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[2].parent / "shared" / "vectors"

# What each file must at least come to: (agreed, not implemented). An emptied check turns red.
EXPECTED = {
    "aliro_generated.json": (179, 0),
    "aliro_public.json": (54, 16),
    "nist_800_108_ctr_cmac_hmac.json": (20, 0),
    "nist_800_38b_aes_cmac.json": (8, 0),
    "nist_ansx963_sha256.json": (70, 0),
    "nist_kas_ecdh_p256.json": (30, 0),
    "rfc5869_hkdf_sha256.json": (3, 3),
    "rfc6979_p256_sha256.json": (3, 0),
    "rfc9383_spake2plus_p256.json": (48, 0),
    "uwb_public.json": (0, 14),
    "wycheproof_aes_cmac.json": (204, 0),
    "wycheproof_aes_gcm.json": (2, 132),
    "wycheproof_ecdh_secp256r1_ecpoint.json": (355, 0),
    "wycheproof_ecdsa_secp256r1_sha256.json": (484, 0),
    "wycheproof_ecdsa_secp256r1_sha256_p1363.json": (262, 0),
    "wycheproof_hkdf_sha256.json": (86, 0),
    "wycheproof_hmac_sha256.json": (174, 0),
}

# One value of each file whose change must be seen: the way to it.
CHANGED = {
    "nist_800_108_ctr_cmac_hmac.json": ("vectors", 19, "KO"),
    "nist_800_38b_aes_cmac.json": ("vectors", 7, "OUTPUT"),
    "rfc9383_spake2plus_p256.json": ("vectors", 0, "K_shared"),
    "nist_ansx963_sha256.json": ("vectors", 3, "key_data"),
    "nist_kas_ecdh_p256.json": ("vectors", 29, "Z"),
    "rfc5869_hkdf_sha256.json": ("vectors", 1, "OKM"),
    "rfc6979_p256_sha256.json": ("vectors", 1, "s"),
    "wycheproof_aes_gcm.json": (),
    "wycheproof_ecdh_secp256r1_ecpoint.json": ("testGroups", 0, "tests", 0, "shared"),
    "wycheproof_ecdsa_secp256r1_sha256.json": ("testGroups", 0, "tests", 0, "sig"),
    "wycheproof_ecdsa_secp256r1_sha256_p1363.json": ("testGroups", 0, "tests", 0, "sig"),
    "wycheproof_hkdf_sha256.json": ("testGroups", 0, "tests", 0, "okm"),
    "wycheproof_aes_cmac.json": ("testGroups", 0, "tests", 0, "tag"),
    "wycheproof_hmac_sha256.json": ("testGroups", 0, "tests", 0, "tag"),
}


def shared(name: str) -> Path:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not there: the shared vectors are not part of the tree")
    return path


def flipped(text: str) -> str:
    """Change the lowest bit of the last byte of hex digits."""
    data = bytearray(bytes.fromhex(text))
    data[-1] ^= 1
    return data.hex()


def is_hex(value: object) -> bool:
    if not isinstance(value, str) or not value or len(value) % 2:
        return False
    return all(digit in "0123456789abcdef" for digit in value)


def hex_fields(value: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in pairs:
        if isinstance(item, dict | list):
            yield from hex_fields(item, (*way, name))
        elif is_hex(item):
            yield (*way, name)


def with_flip(document: Any, way: tuple[str | int, ...]) -> Any:
    changed = copy.deepcopy(document)
    place = changed
    for name in way[:-1]:
        place = place[name]
    place[way[-1]] = flipped(place[way[-1]])
    return changed


def undetected(document: Any, folder: Path) -> set[str]:
    """Return id and name of every hex field of the entries whose change goes unnoticed."""
    missed = set()
    path = folder / "changed.json"
    for at, entry in enumerate(document["vectors"]):
        for way in hex_fields(entry):
            path.write_text(json.dumps(with_flip(document, ("vectors", at, *way))))
            if not check_file(path).disagreed:
                missed.add(f"{entry['id']}: {way[-1]}")
    return missed


@pytest.mark.parametrize("name", EXPECTED)
def test_nothing_disagrees_and_no_check_has_gone_empty(name: str) -> None:
    report = check_file(shared(name))
    assert report.failures == ()
    agreed, not_implemented = EXPECTED[name]
    assert report.agreed >= agreed
    assert report.agreed + report.not_implemented >= agreed + not_implemented


def test_every_shared_file_is_understood() -> None:
    shared("aliro_public.json")
    names = {path.name for path in FOLDER.glob("*.json")}
    assert names <= set(EXPECTED)


@pytest.mark.parametrize("name", [name for name, way in CHANGED.items() if way])
def test_one_changed_byte_is_one_disagreement_at_least(name: str, tmp_path: Path) -> None:
    document = json.loads(shared(name).read_text())
    copied = tmp_path / "renamed.json"
    copied.write_text(json.dumps(with_flip(document, CHANGED[name])))
    report = check_file(copied)
    assert report.disagreed >= 1
    assert report.failures[0][0]


def test_a_changed_tag_of_a_reachable_gcm_test_disagrees(tmp_path: Path) -> None:
    document = json.loads(shared("wycheproof_aes_gcm.json").read_text())
    changed = 0
    for group in document["testGroups"]:
        for case in group["tests"]:
            zero = case["iv"] == "00" * 12 and not case["aad"] and len(case["key"]) == 64
            if zero and case["result"] == "valid":
                case["tag"] = flipped(case["tag"])
                changed += 1
    (tmp_path / "gcm.json").write_text(json.dumps(document))
    assert changed
    assert check_file(tmp_path / "gcm.json").disagreed >= changed


def test_every_value_of_the_generated_transactions_is_compared(tmp_path: Path) -> None:
    document = json.loads(shared("aliro_generated.json").read_text())
    # One certificate transaction, its fast one and one over BLE have every field there is.
    ids = ("nfc-certificate", "nfc-certificate-fast", "ble-1", "ble-1-fast")
    document["vectors"] = [v for v in document["vectors"] if v["id"] in ids]
    assert undetected(document, tmp_path) == set()


def test_every_value_of_the_public_entries_is_compared_but_those_named_here(tmp_path: Path) -> None:
    document = json.loads(shared("aliro_public.json").read_text())
    kinds = {
        "expedited_standard_transaction",
        "reader_cert_profile0000",
        "reader_cert_x509",
        "ble_dynamic_tag",
        "ble_initiate_access_protocol",
        "ble_key_salt",
        "exchange_response_plain",
        "real_device_log_partial",
    }
    document["vectors"] = [
        v for v in document["vectors"] if v["kind"] in kinds and v["id"] != "cert-kormax-doc"
    ]
    assert undetected(document, tmp_path) == {
        # Outdated in the published text.
        "std-nfc-1: auth1_response_plaintext_OUTDATED",
        "std-nfc-1: control_flow_command_OUTDATED",
        # The logs end before the values that these lead to.
        "pm3-pr3106: reader_group_identifier",
        "pm3-pr3106: reader_group_sub_identifier",
        "pm3-pr3106: transaction_identifier",
        "pm3-pr3135: reader_group_identifier",
        "pm3-pr3135: reader_group_sub_identifier",
        "pm3-pr3135: transaction_identifier",
        "pm3-pr3104-fast: reader_private_key",
        "pm3-pr3104-fast: kpersistent",
        "pm3-pr3161-fast: kpersistent",
    }


def test_what_is_not_implemented_is_never_counted_as_agreed(tmp_path: Path) -> None:
    document = json.loads(shared("aliro_public.json").read_text())
    later = ("mailbox_tlv",)
    others = [v for v in document["vectors"] if v["kind"] in later]
    success = [v for v in document["vectors"] if v["id"] == "exchange-success"]
    (tmp_path / "later.json").write_text(json.dumps({"vectors": others + success}))
    report = check_file(tmp_path / "later.json")
    assert report.agreed == 2  # both comparisons of the one entry that is implemented
    assert report.not_implemented >= len(others)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "no JSON",
        '{"vectors": []}',
        '{"vectors": [7]}',
        '{"vectors": [{"id": "a", "kind": "of no file"}]}',
        '{"vectors": [{"id": "a", "kind": "standard"}]}',
        '{"vectors": [{"IKM": "0", "salt": "", "info": "", "L": "42", "OKM": ""}]}',
        '{"vectors": [{"IKM": "00", "salt": "", "info": "", "L": "x", "OKM": ""}]}',
        '{"vectors": [{"name": "a"}]}',
        '{"vectors": 1, "vectors": 1}',
        '{"algorithm": "ROT13", "testGroups": [{}], "numberOfTests": 1}',
        '{"algorithm": "ECDH", "testGroups": [], "numberOfTests": 0}',
        '{"algorithm": "ECDH", "testGroups": [{"tests": [{"result": "maybe"}]}]}',
    ],
)
def test_a_file_that_is_not_understood_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(FileFormatError):
        check_file(path)


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_bytes(b"\xff\xfe{}")
    for name in ("odd.json", "absent.json"):
        with pytest.raises(FileFormatError):
            check_file(tmp_path / name)


def test_a_wycheproof_file_that_lost_tests_is_refused(tmp_path: Path) -> None:
    document = json.loads(shared("wycheproof_hkdf_sha256.json").read_text())
    document["testGroups"].pop()
    (tmp_path / "short.json").write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="another number"):
        check_file(tmp_path / "short.json")


def test_a_table_entry_without_a_field_is_refused_whole(tmp_path: Path) -> None:
    document = json.loads(shared("rfc5869_hkdf_sha256.json").read_text())
    del document["vectors"][2]["OKM"]
    (tmp_path / "short.json").write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="OKM"):
        check_file(tmp_path / "short.json")
