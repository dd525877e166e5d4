"""A mock vehicle: readers, body, head unit and radios to test a key against."""
