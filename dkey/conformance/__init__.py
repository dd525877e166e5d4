"""Conformance: known-answer files, and what the stack says to them.

:mod:`~dkey.conformance.vectors` checks files of published known answers.
"""
