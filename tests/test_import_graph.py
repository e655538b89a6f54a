"""The house as its imports draw it: no circle, and what may know of what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ctx_tasks", "ctx_models", "training")


def modules() -> dict[str, Path]:
    """All modules of the three packages, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """Our modules that a module imports, in functions too; not those it needs for types alone."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for one in node.names:
                inside = f"{base}.{one.name}"
                yield inside if inside in MODULES else base


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from walk(node)


GRAPH = {name: {to for to in imported(name) if to in MODULES and to != name} for name in MODULES}


def circle() -> list[str]:
    """Modules that import each other in a ring; empty if there are none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for to in sorted(GRAPH[name]):
            if found := visit(to, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(GRAPH) if (found := visit(name, []))), [])


def test_the_graph_is_that_of_the_packages():
    assert len(GRAPH) > 80
    assert "ctx_models.armed" in GRAPH["ctx_models.sweep.run"]
    assert "ctx_models.sweep.run" in GRAPH["ctx_models.commands.sweep"]


def test_no_module_imports_itself_by_way_of_others():
    assert not circle(), " -> ".join(circle())


@pytest.mark.parametrize(
    ("package", "unknown"),
    [("ctx_tasks", ("ctx_models", "training")), ("ctx_models", ("training",))],
)
def test_dependencies_point_one_way(package, unknown):
    wrong = [
        f"{name} imports {to}"
        for name, targets in GRAPH.items()
        for to in targets
        if name.split(".")[0] == package and to.split(".")[0] in unknown
    ]
    assert not wrong


LONGEST, MOST_ROOMS = 450, 8


def test_no_file_holds_more_than_one_idea_s_worth_of_lines():
    long = {
        name: lines
        for name, path in MODULES.items()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert not long


def behind(*names: str) -> set[str]:
    """These modules, and all that they import, themselves or by way of others."""
    found: set[str] = set()
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += GRAPH[name]
    return found


def rooms(names: set[str]) -> set[str]:
    """The folders that modules lie in."""
    return {str(MODULES[name].parent.relative_to(ROOT)) for name in names}


def test_an_arm_goes_from_a_sweep_file_to_the_leaderboard_through_few_rooms():
    # The registry names a model's class by a string.
    way = behind("ctx_models.commands.sweep", "ctx_models.lm", "ctx_models.commands.leaderboard")
    knowing = {name for name in way if "ctx_tasks.arm" in GRAPH[name]}
    assert {"ctx_models.sweep.plan", "ctx_models.steered", "ctx_tasks.results"} < knowing
    assert len(rooms(knowing)) <= MOST_ROOMS


def test_a_results_file_goes_to_the_page_through_few_rooms():
    way = behind("ctx_models.commands.leaderboard")
    assert {"ctx_tasks.results", "ctx_tasks.report.page"} < way
    assert len(rooms(way)) <= MOST_ROOMS
