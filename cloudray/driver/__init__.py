"""The user's process: submits batches, follows their journals, prints what tasks print."""
