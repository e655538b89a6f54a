"""A judge model rates saved answers; every reply is kept."""
