"""Embedmill: raw text pairs in, a registered, served and measured text-embedding model out."""

__version__ = "0.1.0"
