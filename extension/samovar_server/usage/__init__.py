"""Usage: the tokens that each user's requests have taken, counted while they run."""
