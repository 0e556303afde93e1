"""The admin API: JSON under ``/_titans3/admin/v1``, for titanctl, the console and whoever automates."""
