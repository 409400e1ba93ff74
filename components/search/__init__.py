"""Search: the corpus's passages ranked by the champion model, from an index that is built once for both."""
