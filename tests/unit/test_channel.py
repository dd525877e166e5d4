"""The secure channel: order, direction, integrity and the end of its counters."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dkey.crypto.channel import COUNTER_LIMIT, TAG_SIZE, SecureChannel
from dkey.crypto.secret import Secret
from dkey.errors import AuthenticationError

READER_KEY, DEVICE_KEY = bytes(range(32)), bytes(range(32, 64))


def ends() -> tuple[SecureChannel, SecureChannel]:
    """Return the reader's end and the device's end."""
    keys = Secret(READER_KEY), Secret(DEVICE_KEY)
    return SecureChannel(*keys, is_reader=True), SecureChannel(*keys, is_reader=False)


def test_messages_pass_in_both_directions() -> None:
    reader, device = ends()
    assert device.open(reader.seal(b"question")) == b"question"
    assert reader.open(device.seal(b"answer")) == b"answer"


def test_the_reader_seals_with_its_key_direction_0_and_counter_1() -> None:
    reader, _ = ends()
    expected = AESGCM(READER_KEY).encrypt(bytes(8) + b"\0\0\0\1", b"m", None)
    assert reader.seal(b"m") == expected


def test_the_device_seals_with_its_key_direction_1_and_a_rising_counter() -> None:
    _, device = ends()
    device.seal(b"first")
    expected = AESGCM(DEVICE_KEY).encrypt(bytes(7) + b"\1" + b"\0\0\0\2", b"m", b"aad")
    assert device.seal(b"m", b"aad") == expected


def test_a_sealed_message_is_longer_by_the_tag() -> None:
    reader, _ = ends()
    assert len(reader.seal(b"")) == TAG_SIZE


def test_both_counters_start_at_1_and_rise_alone() -> None:
    reader, device = ends()
    device.open(reader.seal(b""))
    device.open(reader.seal(b""))
    assert reader.counters == (3, 1)
    assert device.counters == (1, 3)


def test_a_replayed_message_is_refused() -> None:
    reader, device = ends()
    message = reader.seal(b"m")
    device.open(message)
    with pytest.raises(AuthenticationError):
        device.open(message)


def test_a_skipped_message_is_refused() -> None:
    reader, device = ends()
    reader.seal(b"lost")
    with pytest.raises(AuthenticationError):
        device.open(reader.seal(b"m"))


def test_messages_in_the_wrong_order_are_refused() -> None:
    reader, device = ends()
    first, second = reader.seal(b"1"), reader.seal(b"2")
    for message in (second, first):
        with pytest.raises(AuthenticationError):
            device.open(message)


def test_a_message_sent_back_to_its_sender_is_refused() -> None:
    reader, _ = ends()
    with pytest.raises(AuthenticationError):
        reader.open(reader.seal(b"m"))


def test_a_message_sent_back_is_refused_even_under_one_key() -> None:
    keys = Secret(READER_KEY), Secret(READER_KEY)
    reader = SecureChannel(*keys, is_reader=True)
    with pytest.raises(AuthenticationError):
        reader.open(reader.seal(b"m"))


def test_a_message_of_another_session_is_refused() -> None:
    reader, _ = ends()
    other = SecureChannel(Secret(bytes(32)), Secret(DEVICE_KEY), is_reader=False)
    with pytest.raises(AuthenticationError):
        other.open(reader.seal(b"m"))


@pytest.mark.parametrize("at", range(17))
def test_a_message_with_any_byte_changed_is_refused(at: int) -> None:
    reader, device = ends()
    message = bytearray(reader.seal(b"m"))
    message[at] ^= 1
    with pytest.raises(AuthenticationError):
        device.open(bytes(message))


@pytest.mark.parametrize("size", range(17))
def test_a_message_cut_at_any_byte_is_refused(size: int) -> None:
    reader, device = ends()
    with pytest.raises(AuthenticationError):
        device.open(reader.seal(b"m")[:size])


def test_other_associated_data_is_refused() -> None:
    reader, device = ends()
    with pytest.raises(AuthenticationError):
        device.open(reader.seal(b"m", b"a"), b"b")


def test_the_counter_rises_also_when_a_message_does_not_verify() -> None:
    reader, device = ends()
    with pytest.raises(AuthenticationError):
        device.open(bytes(20))
    assert device.counters == (1, 2)
    reader.seal(b"1")
    assert device.open(reader.seal(b"2")) == b"2"


def test_a_destroyed_channel_neither_seals_nor_opens() -> None:
    reader, device = ends()
    message = reader.seal(b"m")
    device.destroy()
    assert not device.alive
    with pytest.raises(AuthenticationError):
        device.open(message)
    with pytest.raises(AuthenticationError):
        device.seal(b"m")


def test_the_sender_ends_before_its_counter_reaches_the_limit() -> None:
    reader, _ = ends()
    messages = {reader.seal(b"") for _ in range(COUNTER_LIMIT - 1)}
    assert len(messages) == COUNTER_LIMIT - 1 == 65534
    assert reader.alive
    with pytest.raises(AuthenticationError):
        reader.seal(b"")
    assert not reader.alive


def test_the_receiver_ends_before_its_counter_reaches_the_limit() -> None:
    reader, device = ends()
    for _ in range(COUNTER_LIMIT - 1):
        device.open(reader.seal(b""))
    assert device.counters[1] == COUNTER_LIMIT
    last = AESGCM(READER_KEY).encrypt(bytes(8) + COUNTER_LIMIT.to_bytes(4, "big"), b"m", None)
    with pytest.raises(AuthenticationError):
        device.open(last)
    assert not device.alive
