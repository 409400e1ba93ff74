"""The score step: how alike a teacher model finds the two texts of a pair, and which pairs are clear mismatches."""
