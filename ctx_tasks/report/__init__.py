"""One HTML page that explains itself, alone in its file."""
