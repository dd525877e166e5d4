"""Owner pairing: SPAKE2+ on the head unit's code, both ends, sans-IO (specs/pairing.md).

The vehicle is the verifier, the phone the prover. Message in, message out; the transport does not
matter (:mod:`dkey.pairing.owner_apdu` for NFC, :func:`~dkey.pairing.owner_messages.to_sdu` for
BLE)::

    phone                                                        vehicle
      BEGIN  versions                                ------>
             <------                                 OFFER   version, salt, cost of scrypt
      SHARE  shareP                                  ------> counts the try, durably
             <------                                 PROOF   shareV, confirmV
      CONFIRM confirmP, sealed: key, proof, radios   ------> verifies, then opens
             <------                                 GRANT   sealed: vehicle, features, names
      keeps the vehicle
      ACCEPT sealed                                  ------> enrols the key, durably
             <------                                 DONE    sealed

PROOF is what tells a wrong guess from a right one, so a try is counted before it leaves, and
whatever comes afterwards costs nothing more. Each end seals nothing and opens nothing before it
has verified the other's confirmation. Every failure ends the procedure and destroys its keys.
"""

from __future__ import annotations

from dkey.pairing.owner_apdu import OwnerPairingApplet, as_apdus, select_phone, tell_phone
from dkey.pairing.owner_code import CODE_DIGITS, one_time_code, parse_code, qr_text, shown_code
from dkey.pairing.owner_device import OwnerPairingDevice, Stretch
from dkey.pairing.owner_keys import ID_DEVICE, ID_VEHICLE, PairingState
from dkey.pairing.owner_messages import (
    OWNER_AID,
    Cost,
    DeviceKey,
    PairedVehicle,
    failure,
    from_sdu,
    is_owner_pairing,
    to_sdu,
)
from dkey.pairing.owner_vehicle import OwnerPairingVehicle, PairingRegister

__all__ = [
    "CODE_DIGITS",
    "ID_DEVICE",
    "ID_VEHICLE",
    "OWNER_AID",
    "Cost",
    "DeviceKey",
    "OwnerPairingApplet",
    "OwnerPairingDevice",
    "OwnerPairingVehicle",
    "PairedVehicle",
    "PairingRegister",
    "PairingState",
    "Stretch",
    "as_apdus",
    "failure",
    "from_sdu",
    "is_owner_pairing",
    "one_time_code",
    "parse_code",
    "qr_text",
    "select_phone",
    "shown_code",
    "tell_phone",
    "to_sdu",
]
