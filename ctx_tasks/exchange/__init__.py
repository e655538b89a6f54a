"""Results in the formats of other people's tools, written and read."""
