"""CloudRay beside others that have nothing but a bucket: same S3, same run."""
