"""The step `ingest`: sources of every kind become records of one schema."""
