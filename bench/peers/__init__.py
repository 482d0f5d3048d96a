"""Other libraries on the same work, in an environment of their own."""
