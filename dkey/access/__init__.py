"""The access transaction: both roles, sans-IO, over NFC or BLE.

A device proves that it holds an enrolled credential, a reader that it belongs to a group the
device trusts, and both get fresh keys. :mod:`~dkey.access.reader` is the reader's procedure,
:mod:`~dkey.access.device` the device's applet, :mod:`~dkey.access.profile` the data in which the
``aliro`` and ``vehicle`` profiles differ.
"""
