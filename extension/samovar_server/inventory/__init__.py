"""What is on disk: model references, model folders, the Hugging Face cache."""
