def pytest_configure(config):
    config.addinivalue_line("markers", "bluez_vm: the real Linux Bluetooth stack, in QEMU")
