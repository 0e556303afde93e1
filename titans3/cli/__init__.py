"""The commands titans3 and titanctl."""
