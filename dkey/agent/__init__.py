"""The device side: a key agent's files and the device role on a link."""
