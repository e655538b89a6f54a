"""`python -m ctx_models`: the same as `ctx-eval`."""

from ctx_models.cli import main

main()
