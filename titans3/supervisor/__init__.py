"""The parent process."""
