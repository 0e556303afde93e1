"""The commands of ``titanctl`` that talk to a server: a thin client of the S3 API and of the admin API."""
