"""CloudRay measured beside Ray, on the same machine in the same run."""
