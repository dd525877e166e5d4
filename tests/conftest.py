def pytest_make_parametrize_id(val, argname):
    """Name byte parameters by their size: random keys must not be part of a test's name."""
    return f"{argname}-{len(val)}B" if isinstance(val, bytes) else None
