"""The step `sources`: what there is to train on, with a digest of its content."""
