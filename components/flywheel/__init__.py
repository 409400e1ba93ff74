"""The flywheel: new feedback becomes an immutable dataset version, and each version is trained on exactly once."""
