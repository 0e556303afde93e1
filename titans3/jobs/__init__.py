"""Background jobs, all of one shape."""
