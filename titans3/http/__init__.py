"""HTTP and SigV4 as values in, values out; only the connection in ``worker/`` touches a socket."""
