"""The command `finish`: the exit handler of a pipeline, which records how a run ended and tells a webhook."""
