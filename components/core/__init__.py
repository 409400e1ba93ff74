"""What every step needs: declarations, records, datasets, storage, the command line. Imports no step and no torch."""
