"""Configuration: the schema, where values come from, and the words in which a bad one is refused."""
