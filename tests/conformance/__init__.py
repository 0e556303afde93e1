"""What S3 promises, operation by operation, shown over HTTP and TLS."""
