"""The order of the house: who may import whom, and what stands where. Imports inside functions count, too."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edge_tracker"

# From the top down: what is in one line may import what is in lines below it. In its own line it may import other
# rooms as long as that makes no circle.
ORDER = (
    ("", "__main__"),  # the package's top hands out what lies in it, and is imported by nothing in it
    ("cli",),
    ("app.commands",),
    ("app.run", "app.replay", "app.evaluation", "app.batch", "app.doctor"),
    ("app.open_models", "app.open_tracker"),
    ("app.sources", "app.outputs", "app.counting", "app.config"),
    ("app.extras", "app.frame_results", "app.handover", "app.saved", "app.stats"),
    ("deepsort", "object_tracker", "track", "track_arrays"),
    ("embedding", "detection"),
    ("inference", "tracking"),
    ("backoff", "configured", "errors", "files", "version"),
)
APP_ROOMS = {
    "batch", "commands", "config", "counting", "doctor", "evaluation", "outputs", "replay", "run", "sources"
}  # fmt: skip
APP_SHARED = {"extras", "frame_results", "handover", "open_models", "open_tracker", "saved", "stats"}
# The methods of tracking, and the modules beside them that know both.
METHODS = ("tracking.deepsort", "tracking.edge")
KNOW_METHODS = {"tracking.warmup"}
# A command that is called as what it calls.
NAMED_ALIKE = {"app.commands.warmup"}


def module_name(path: Path) -> str:
    """The dotted name within the package; "" of its top."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported_names(node: ast.AST) -> Iterator[str]:
    """The dotted names that are imported at run time, in functions too; of `from a import b` both `a` and `a.b`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "imports name the whole path"
            yield str(child.module)
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and is_type_checking(child):
            for other in child.orelse:
                yield from imported_names(other)
        else:
            yield from imported_names(child)


def imports_of(path: Path) -> set[str]:
    return set(imported_names(ast.parse(path.read_text(encoding="utf-8"))))


def modules_of(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    names = {name for name in imports_of(path) if name.split(".")[0] == "edge_tracker"}
    within = {name.partition(".")[2] for name in names} & MODULES.keys()
    # `from package import module` imports the module; the package's own file matters if it gives something else.
    return {name for name in within if not any(other.startswith(f"{name}.") for other in within) or not name}


def top_is_imported(path: Path) -> bool:
    """True if something is imported that the package's own top gives: `from edge_tracker import EdgeDeepSort`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "edge_tracker"
        and any(alias.name not in MODULES for alias in node.names)
        for node in ast.walk(tree)
    )


IMPORTS = {name: modules_of(path) - {"", name} for name, path in MODULES.items()}


def place_of(module: str) -> tuple[int, str]:
    """The line of `ORDER` that a module belongs to, and its room there."""
    for rank, rooms in enumerate(ORDER):
        for room in rooms:
            if module == room or (room and module.startswith(f"{room}.")):
                return rank, room
    raise AssertionError(f"{module}: ORDER does not say where it belongs")


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """A circle, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_way_of_others():
    assert circle_in(IMPORTS) == []


def test_no_room_imports_itself_by_way_of_others():
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, imported in IMPORTS.items():
        if module != "app":
            room = place_of(module)[1]
            rooms[room] |= {place_of(other)[1] for other in imported} - {room}
    assert circle_in(rooms) == []


def test_imports_run_downwards():
    upward = [
        f"{module} imports {other}"
        for module, imported in IMPORTS.items()
        for other in imported
        if module != "app" and place_of(other)[0] < place_of(module)[0]
    ]
    assert upward == []


def test_nothing_in_the_package_imports_its_top():
    assert [name for name, path in MODULES.items() if top_is_imported(path)] == []


def test_inference_embedding_and_detection_know_no_tracking():
    rooms = ("inference", "embedding", "detection")
    found = [f"{a} imports {b}" for a in MODULES if a.split(".")[0] in rooms for b in IMPORTS[a] if "tracking" in b]
    assert found == []


@pytest.mark.parametrize("method", METHODS)
def test_what_the_methods_of_tracking_share_knows_neither(method):
    found = [
        f"{module} imports {other}"
        for module, imported in IMPORTS.items()
        for other in imported
        if module.startswith("tracking") and module not in KNOW_METHODS and not f"{module}.".startswith(f"{method}.")
        if other.startswith(method)
    ]
    assert found == []


def test_tracking_needs_nothing_but_numpy_and_numba():
    given = {"numpy", "numba", "edge_tracker", *sys.stdlib_module_names}
    names = {
        name.split(".")[0]
        for module, path in MODULES.items()
        if module.startswith("tracking")
        for name in imports_of(path)
    }
    assert names - given == set()


def test_nothing_lies_loose_in_app_but_what_all_of_it_shares():
    files = {path.stem for path in (PACKAGE / "app").glob("*.py")} - {"__init__"}
    rooms = {path.parent.name for path in (PACKAGE / "app").glob("*/__init__.py")}
    assert (files, rooms) == (APP_SHARED, APP_ROOMS)


def test_what_lies_loose_in_app_is_used_by_several_rooms():
    for shared in APP_SHARED:
        users = {place_of(module)[1] for module, imported in IMPORTS.items() if f"app.{shared}" in imported}
        assert len(users) > 1, f"app/{shared}.py is used by {users} alone"


def test_no_two_modules_have_the_same_file_name():
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        # The methods of tracking have the same parts, and name them alike.
        place = "tracking" if module.startswith("tracking.") else module
        if path.name != "__init__.py" and module not in NAMED_ALIKE:
            places[path.name].append(place)
    assert {name: modules for name, modules in places.items() if len(set(modules)) > 1} == {}


def test_nothing_imports_torch():
    assert [name for name, path in MODULES.items() if any(i.split(".")[0] == "torch" for i in imports_of(path))] == []
