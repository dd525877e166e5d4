"""Decisions: measurements and requests in, verdicts out; pure and table-driven."""
