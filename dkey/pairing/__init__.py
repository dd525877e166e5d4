"""Pairing: how a card gets its vehicle, and a vehicle its card."""
