"""The worker processes of the other engines, and what all worker processes share."""
