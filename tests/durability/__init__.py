"""Proofs that what was acknowledged stays: power cuts, races, and any order of use."""
