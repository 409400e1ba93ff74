"""The command `embedmill ledger`: where the rows of a run went, and what they were."""
