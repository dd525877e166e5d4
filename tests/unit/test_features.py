"""Functions of a key: what vehicle, device and permission have in common, and who is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.errors import PolicyRefusal, RefusalCode, WireError
from dkey.lifecycle.features import (
    DK2,
    DK2_TOUCH,
    NEEDS,
    PERMITTED,
    PROFILES,
    Capabilities,
    Feature,
    effective,
    enrolment,
    pack_features,
    parse_features,
)
from dkey.lifecycle.roles import Permission

SETS = st.frozensets(st.sampled_from(Feature))
DEVICES = st.builds(
    Capabilities,
    nfc=st.booleans(),
    ble=st.booleans(),
    uwb=st.booleans(),
    os=st.sampled_from(("android 14", "ios 17.2", "linux 6.1.0-18-amd64", "macos 14")),
)
FULL = Permission.ENTRY_AND_START


def device(radios: str = "nfc ble uwb", os: str = "android 14") -> Capabilities:
    has = radios.split()
    return Capabilities(nfc="nfc" in has, ble="ble" in has, uwb="uwb" in has, os=os)


@given(SETS, SETS, st.sampled_from(Permission))
def test_a_key_has_exactly_what_all_three_have(vehicle, phone, permission):
    has = effective(vehicle, phone, permission)
    for feature in Feature:
        assert (feature in has) == all(
            feature in s for s in (vehicle, phone, PERMITTED[permission])
        )


@given(SETS)
def test_a_feature_set_survives_its_byte(features):
    assert parse_features(pack_features(features)) == features


@given(DEVICES)
def test_capabilities_survive_their_bytes(capabilities):
    assert Capabilities.parse(capabilities.to_bytes()) == capabilities


@given(st.sampled_from((DK2, DK2_TOUCH)), DEVICES, st.sampled_from(Permission))
def test_an_enrolled_device_gets_every_function_or_the_reason_why_not(vehicle, phone, permission):
    if not effective(vehicle.features, phone.features, permission) - {Feature.SHARING}:
        with pytest.raises(PolicyRefusal) as caught:
            enrolment(vehicle, phone, permission)
        assert caught.value.code is RefusalCode.DEVICE_UNSUPPORTED
        return
    got = enrolment(vehicle, phone, permission)
    assert got.features | got.missing.keys() == vehicle.features
    assert not got.features & got.missing.keys()
    assert all(got.missing.values())
    assert all(NEEDS[feature] <= phone.radios for feature in got.features)


@pytest.mark.parametrize(
    ("vehicle", "radios", "expected"),
    [
        (DK2, "nfc ble uwb", set(Feature)),
        (DK2, "nfc", {Feature.SHARING, Feature.TOUCH_LOCK, Feature.TOUCH_START}),
        (DK2, "ble", {Feature.SHARING, Feature.REMOTE}),
        (DK2, "nfc ble", set(Feature) - {Feature.PROXIMITY_LOCK, Feature.PROXIMITY_START}),
        (DK2_TOUCH, "nfc ble uwb", {Feature.SHARING, Feature.TOUCH_LOCK, Feature.TOUCH_START}),
    ],
)
def test_a_device_that_is_partly_supported_gets_a_reduced_set(vehicle, radios, expected):
    assert enrolment(vehicle, device(radios), FULL).features == expected


def test_the_reason_names_what_the_device_lacks():
    missing = enrolment(DK2, device("nfc ble"), FULL).missing
    assert missing[Feature.PROXIMITY_LOCK] == "the device has no UWB"


def test_entry_alone_never_starts():
    features = enrolment(DK2, device(), Permission.ENTRY).features
    assert features == set(Feature) - {Feature.TOUCH_START, Feature.PROXIMITY_START}


def test_a_touch_vehicle_keeps_sharing_unless_it_is_switched_off():
    assert Feature.SHARING in DK2_TOUCH.features
    assert Feature.SHARING not in DK2_TOUCH.without(Feature.SHARING).features
    assert DK2_TOUCH.without().features == DK2_TOUCH.features


@pytest.mark.parametrize(
    ("vehicle", "radios", "system", "said"),
    [
        (DK2, "", "android 14", "no NFC"),
        (DK2, "uwb", "android 14", "no BLE"),
        (DK2_TOUCH, "ble uwb", "android 14", "no NFC"),
        (DK2, "nfc ble uwb", "palmos 5", "not served"),
        (DK2, "nfc ble uwb", "android 11", "too old"),
        (DK2, "nfc ble uwb", "android", "too old"),
        (DK2, "nfc ble uwb", "android x", "too old"),
    ],
)
def test_an_unsupported_device_is_refused_with_the_reason(vehicle, radios, system, said):
    with pytest.raises(PolicyRefusal) as caught:
        enrolment(vehicle, device(radios, system), FULL)
    assert caught.value.code is RefusalCode.DEVICE_UNSUPPORTED
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\x01ab", b"\x08android 14", b"\x01andr\n14", b"\x01" + b"a" * 33]
)
def test_malformed_capabilities_are_refused(data):
    with pytest.raises(WireError):
        Capabilities.parse(data)


def test_capabilities_that_do_not_fit_are_not_sent():
    with pytest.raises(WireError):
        device(os="android 14 " * 4).to_bytes()


@pytest.mark.parametrize("data", [b"", b"\x40", b"\x01\x01"])
def test_a_malformed_feature_byte_is_refused(data):
    with pytest.raises(WireError):
        parse_features(data)


def test_the_profiles_are_found_by_name():
    assert PROFILES == {"DK2": DK2, "DK2_TOUCH": DK2_TOUCH}
