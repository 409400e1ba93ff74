"""Serve: a model behind OpenAI's embeddings API, the champion by default, replaced while requests run."""
