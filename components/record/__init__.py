"""Record: a run of the cluster becomes a branch from which `dvc pull` fetches exactly its model."""
