"""Quotas and roles: how much each user may have, and who may do what."""
