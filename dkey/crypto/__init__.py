"""P-256, key derivation, the secure channel, and the vaults that hold private keys."""
