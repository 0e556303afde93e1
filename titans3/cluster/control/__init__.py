"""The control plane: who owns a name, which keys exist, what is set."""
