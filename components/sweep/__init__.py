"""Grid search: every combination of some values is trained and measured, and the best one becomes a recipe."""
