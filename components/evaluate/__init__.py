"""The evaluate step: the model at every dimension beside its baselines, on the evaluation suite."""
