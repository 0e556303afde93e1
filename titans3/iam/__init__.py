"""Rules: policy documents and their evaluation, names of principals, access control lists. Pure."""
