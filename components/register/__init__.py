"""The `register` step: one MLflow run for a pipeline run, a model version, a gate, and the alias `champion`."""
