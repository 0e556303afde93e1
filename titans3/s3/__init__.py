"""S3 operations, one file per family."""
