"""A step as a pod of a pipeline: everything it reads and writes lies in a store that all pods reach."""
