"""A step as a job of the cluster: created or adopted, followed to its end, cleaned up."""
