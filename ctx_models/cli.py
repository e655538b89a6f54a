"""`ctx-eval`: the harness's own `run` with our model and tasks known, and what comes after it.

Nothing heavy is imported until a command needs it, so `--help` answers at once.
"""

from __future__ import annotations

from typing import Any

from ctx_models.commands import (
    attention,
    compare,
    demo,
    export,
    gate,
    judge,
    leaderboard,
    ls,
    plots,
    rescore,
    run,
    sweep,
    tune,
)
from ctx_models.commands.entry import Version, new_app, start

app = new_app("Measure context awareness of chat models, steer them, compare them.")


@app.callback()
def _options(version: Version = False) -> None:
    pass


app.command("run", context_settings=run.PASS_THROUGH)(run.command)
app.command("judge")(judge.command)
app.command("sweep")(sweep.command)
app.command("tune")(tune.command)
app.command("rescore")(rescore.command)
app.command("attention")(attention.command)
app.command("leaderboard")(leaderboard.command)
app.command("plots")(plots.command)
app.command("export")(export.command)
app.command("compare")(compare.command)
app.command("gate", cls=gate.GateCommand)(gate.command)
app.command("demo")(demo.command)
app.command("ls")(ls.command)


def main(arguments: list[str] | None = None) -> Any:
    """The entry point `ctx-eval`."""
    return start(app, "ctx-eval", arguments)


if __name__ == "__main__":
    main()
