"""The OpenAI-shaped requests and answers; shared by the server and the workers, free of torch."""
