"""Where attention goes (Figures 3, 4), and where single answers looked."""
