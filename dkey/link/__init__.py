"""Transports: one file each, behind the small interfaces of :mod:`dkey.link.base`."""
