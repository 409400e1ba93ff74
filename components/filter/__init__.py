"""The filter step: rules, deduplication and contamination checks that turn ingested rows into training rows."""
