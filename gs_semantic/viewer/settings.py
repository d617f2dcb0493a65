"""Defaults of the viewer, for those who must not import it."""

HOST, PORT = "127.0.0.1", 8080
SPLATS = 250_000  # sent to a page at most: 8 MB
NUMBERS = (50_000, 100_000, SPLATS)  # that the bench compares
