"""Where attention goes (Figures 3, 4)."""
