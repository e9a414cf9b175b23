"""One process per machine: finds batches, claims them, runs their tasks, publishes results."""
