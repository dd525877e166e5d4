"""Secure ranging: URSK ladder, MAC, ranging sessions, position, zones, the trust gate."""
