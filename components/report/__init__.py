"""The `report` step: one self-contained HTML page about a run, and the picture of the README."""
