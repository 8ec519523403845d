"""Turns: who is served next by a model that has more requests than slots."""
