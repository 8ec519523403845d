"""The transformers engine. Imported only inside a worker process."""
