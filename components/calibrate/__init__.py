"""The command `embedmill calibrate`: where a teacher's true pairs and shuffled pairs part, to choose a threshold by."""
