"""Bringing models onto this machine, one killable process per download."""
