"""The commands of ctx-eval, one file each."""
