"""The key schedule: layout of salt and signed data, and that every input changes every key."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from dkey.access.profile import Interface
from dkey.access.schedule import (
    DEVICE_USAGE,
    READER_USAGE,
    Context,
    SessionKeys,
    ble_keys,
    diffie_hellman_key,
    step_up_keys,
)
from dkey.crypto.secret import Secret

CONTEXT = Context(
    group_key_x=b"\xa1" * 32,
    reader_id=b"\xa2" * 32,
    interface=Interface.NFC,
    version=b"\x01\x00",
    reader_ephemeral_x=b"\xa3" * 32,
    device_ephemeral_x=b"\xa4" * 32,
    transaction_id=b"\xa5" * 16,
    parameters=1,
    policy=2,
    a5=b"\xa5\x02\x80\x00",
    extensions=b"\xb1\x01\x00",
)
OTHER: dict[str, Any] = {
    "group_key_x": b"\xb1" * 32,
    "reader_id": b"\xb2" * 32,
    "interface": Interface.BLE,
    "version": b"\x00\x09",
    "reader_ephemeral_x": b"\xb3" * 32,
    "device_ephemeral_x": b"\xb4" * 32,
    "transaction_id": b"\xb5" * 16,
    "parameters": 0,
    "policy": 1,
    "a5": b"\xa5\x02\x80\x01",
    "extensions": b"\xb2\x01\x00",
}
KEY = Secret(bytes(range(32)))
X = b"\xc1" * 32


def values(keys: SessionKeys, *names: str) -> set[bytes]:
    return {getattr(keys, name).reveal() for name in names}


STANDARD = ("exchange_reader", "exchange_device", "step_up", "ble", "ursk")
FAST = ("cryptogram", "exchange_reader", "exchange_device", "ble", "ursk")


def test_the_table_of_other_values_has_every_input() -> None:
    assert {field.name for field in fields(Context)} == set(OTHER)


@pytest.mark.parametrize("name", OTHER)
def test_every_input_changes_every_key(name: str) -> None:
    changed = replace(CONTEXT, **{name: OTHER[name]})
    standard = values(CONTEXT.standard(KEY), *STANDARD)
    assert not standard & values(changed.standard(KEY), *STANDARD)
    fast = values(CONTEXT.fast(KEY, X), *FAST)
    assert not fast & values(changed.fast(KEY, X), *FAST)
    assert CONTEXT.persistent(KEY, X) != changed.persistent(KEY, X)


def test_the_credential_enters_persistent_and_fast_keys() -> None:
    assert CONTEXT.persistent(KEY, X) != CONTEXT.persistent(KEY, bytes(32))
    assert not values(CONTEXT.fast(KEY, X), *FAST) & values(CONTEXT.fast(KEY, bytes(32)), *FAST)


def test_all_keys_of_one_transaction_differ() -> None:
    everything = values(CONTEXT.standard(KEY), *STANDARD) | values(CONTEXT.fast(KEY, X), *FAST)
    assert len(everything | {CONTEXT.persistent(KEY, X).reveal()}) == 11


def test_the_salt_has_its_parts_in_order() -> None:
    assert CONTEXT.salt(b"VolatileFast", X) == b"".join(
        (
            b"\xa1" * 32,
            b"VolatileFast",
            b"\xa2" * 32,
            b"\x5e",
            b"\x5c\x02\x01\x00",
            b"\xa3" * 32,
            b"\xa5" * 16,
            b"\x01\x02",
            b"\xa5\x02\x80\x00",
            X,
        )
    )


def test_the_info_is_the_device_ephemeral_then_the_extensions() -> None:
    assert CONTEXT.info == b"\xa4" * 32 + b"\xb1\x01\x00"


def test_what_is_signed_has_five_objects_and_the_usage_last() -> None:
    signed = CONTEXT.signed_data(READER_USAGE)
    assert signed == b"".join(
        (
            b"\x4d\x20" + b"\xa2" * 32,
            b"\x86\x20" + b"\xa4" * 32,
            b"\x87\x20" + b"\xa3" * 32,
            b"\x4c\x10" + b"\xa5" * 16,
            b"\x93\x04\x41\x5d\x95\x69",
        )
    )
    assert CONTEXT.signed_data(DEVICE_USAGE)[:-4] == signed[:-4]
    assert READER_USAGE != DEVICE_USAGE


def test_a_fast_transaction_has_no_step_up_key() -> None:
    assert CONTEXT.fast(KEY, X).step_up is None


def test_session_keys_do_not_show_themselves() -> None:
    keys = CONTEXT.standard(KEY)
    assert keys.ursk.reveal().hex() not in repr(keys)
    assert "reader" in repr(keys)


def test_the_diffie_hellman_key_depends_on_the_transaction() -> None:
    assert diffie_hellman_key(KEY, bytes(16)) != diffie_hellman_key(KEY, b"\x01" * 16)


def test_step_up_and_ble_directions_have_their_own_keys() -> None:
    keys = [*step_up_keys(KEY), *ble_keys(KEY, b"\x01\x00", b"\x01\x00")]
    assert len({key.reveal() for key in keys}) == 4


def test_the_versions_of_the_connection_enter_the_ble_keys() -> None:
    one = ble_keys(KEY, b"\x01\x00", b"\x01\x00")
    assert ble_keys(KEY, b"\x02\x00\x01\x00", b"\x01\x00") != one
    # Salt is a plain concatenation (Aliro 1.0 §11.8.1), so only the list and its end count.
    assert ble_keys(KEY, b"\x01\x00\x01\x00", b"") == one
