"""Tornado routes below /v1: check, call the workbench, answer."""
