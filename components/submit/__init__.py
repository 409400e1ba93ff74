"""The command `submit`: a run of a compiled pipeline on Kubeflow Pipelines, with this project's parameters."""
