"""The export step: the model as others load it, with its card."""
