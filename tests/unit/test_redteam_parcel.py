"""A parcel with something old in it does not keep the vehicle from what is new."""

from __future__ import annotations

import pytest
from statement_world import EPOCH, KEYS, VEHICLE, list_claims, signed_list

from dkey.errors import AuthenticationError
from dkey.lifecycle.claims import Issuer
from dkey.lifecycle.parcel import KeyParcel, VehicleReceipt, lists_to_take

NOW = VehicleReceipt(epoch=EPOCH, owner_list=2, authority_list=4)
ROOTS = {Issuer.OWNER: KEYS["owner"].public, Issuer.AUTHORITY: KEYS["authority"].public}


def carried(**of_the_former_owner) -> KeyParcel:
    """Return a parcel with a fresh list of the authority and one that a former owner signed."""
    return KeyParcel(
        lists={
            Issuer.OWNER: signed_list(list_claims(**of_the_former_owner), "friend"),
            Issuer.AUTHORITY: signed_list(list_claims(9, issuer=Issuer.AUTHORITY), "authority"),
        }
    )


def test_a_list_of_a_former_owner_does_not_keep_the_authoritys_list_out() -> None:
    parcel = carried(number=7, epoch=EPOCH - 1)
    took = lists_to_take(parcel, keys=ROOTS, vehicle=VEHICLE, taken=NOW)
    assert [each.issuer for each in took] == [Issuer.AUTHORITY]


def test_a_list_that_claims_to_be_news_has_to_verify() -> None:
    with pytest.raises(AuthenticationError):
        lists_to_take(carried(number=7), keys=ROOTS, vehicle=VEHICLE, taken=NOW)
