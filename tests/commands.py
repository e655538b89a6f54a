"""`ctx-eval` and `ctx-train` as a user types them, in this process or in one of their own.

A command is called in this process wherever a process of its own adds nothing: here torch is
imported already, which is most of the seconds of a short command. What a process would keep to
itself is put back after each call: the environment, the working folder, and the loggers.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from lm_eval import tasks
from lm_eval.__main__ import cli_evaluate
from lm_eval.tasks._yaml_loader import load_yaml

from ctx_models import cli as eval_cli
from training import cli as train_cli

ROOT = Path(__file__).parents[1]
HARNESS = Path(tasks.__file__).parent
# All others', the harness's and transformers': each of the last two has a handler of its own.
_LOGGERS = (None, "lm_eval", "transformers")


class Done(NamedTuple):
    """What is left of a command: its exit code and what it printed."""

    code: int
    out: str
    err: str


def ctx_eval(*arguments: object, cwd: Path | None = None, **environment: str) -> Done:
    """`ctx-eval ARGUMENTS` in this process, in the folder `cwd`, 80 columns wide."""
    return _here("ctx-eval", eval_cli.main, arguments, cwd, environment)


def ctx_train(*arguments: object, cwd: Path | None = None, **environment: str) -> Done:
    """`ctx-train ARGUMENTS` in this process, in the folder `cwd`, 80 columns wide."""
    return _here("ctx-train", train_cli.main, arguments, cwd, environment)


def lm_eval(*arguments: object, cwd: Path | None = None, **environment: str) -> Done:
    """The harness's own `lm_eval ARGUMENTS` in this process, in the folder `cwd`."""
    return _here("lm_eval", cli_evaluate, arguments, cwd, environment)


def words(module: str, *arguments: object) -> list[str]:
    """The command line of `python -m MODULE ARGUMENTS`."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def as_process(
    module: str, *arguments: object, cwd: Path | None = None, **environment: str
) -> Done:
    """`python -m MODULE ARGUMENTS` in a process of its own; no traceback, whatever its code."""
    done = subprocess.run(
        words(module, *arguments),
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**_environment(), **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def _environment() -> dict[str, str]:
    """This environment, with our packages to be found from any folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "COLUMNS": "80", "PYTHONPATH": paths}


def _here(
    name: str,
    main: Callable[[], Any],
    arguments: tuple[object, ...],
    cwd: Path | None,
    environment: dict[str, str],
) -> Done:
    out, err = StringIO(), StringIO()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", [name, *map(str, arguments)]))
        stack.enter_context(mock.patch.object(sys, "stdin", StringIO()))
        stack.enter_context(mock.patch.dict(os.environ, {"COLUMNS": "80", **environment}))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        stack.enter_context(_working_folder(cwd))
        stack.enter_context(_loggers())
        stack.enter_context(mock.patch("lm_eval.tasks._index.load_yaml", _load_yaml))
        code = _exit_code(main)
    return Done(code, out.getvalue(), err.getvalue())


def _exit_code(main: Callable[[], Any]) -> int:
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@cache
def _of_the_harness(path: Path, **how: Any) -> dict[str, Any]:
    return load_yaml(path, **how)


def _load_yaml(path: Path, **how: Any) -> dict[str, Any]:
    """As the harness reads a task file, but each of its own only once: they are thousands."""
    return (_of_the_harness if HARNESS in path.parents else load_yaml)(path, **how)


@contextmanager
def _working_folder(folder: Path | None) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _loggers() -> Iterator[None]:
    """Loggers as a new process has them, on its standard error, and put back at the end.

    The harness sets up its logger once a process, so it is told that it has not; pytest's
    handlers at the root would keep a warning from standard error.
    """
    kept = [
        (logger, logger.handlers[:], logger.level, logger.propagate)
        for logger in map(logging.getLogger, _LOGGERS)
    ]
    for name in (None, "lm_eval"):
        logging.getLogger(name).handlers.clear()
    streams = [
        (handler, handler.setStream(sys.stderr))
        for handler in logging.getLogger("transformers").handlers
        if isinstance(handler, logging.StreamHandler)
    ]
    try:
        with mock.patch("lm_eval.utils._LOGGING_CONFIGURED", False):
            yield
    finally:
        for handler, stream in streams:
            if stream is not None:
                handler.setStream(stream)
        for logger, handlers, level, propagate in kept:
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
