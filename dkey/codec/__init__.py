"""Bytes to values and back: BER-TLV, ISO 7816-4 APDUs, deterministic CBOR."""
