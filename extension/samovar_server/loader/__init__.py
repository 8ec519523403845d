"""From a model reference and options to a running worker process."""
