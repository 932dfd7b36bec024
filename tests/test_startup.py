"""Starting: compiled code comes from the cache, also a stale or an impossible one, and nothing else is started."""

from __future__ import annotations

import ast
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_tracker
from edge_tracker.tracking.jit import _drop_stale
from tests.waiting import COMPILING_S

PACKAGE = Path(edge_tracker.__file__).parent

# Counts the functions that Numba compiled or loaded, and the forms of each.
DISPATCHERS = """
import importlib, pkgutil
import edge_tracker.tracking
from numba.core.registry import CPUDispatcher
def dispatchers():
    modules = [importlib.import_module(m.name)
               for m in pkgutil.walk_packages(edge_tracker.tracking.__path__, "edge_tracker.tracking.")]
    functions = [f for m in modules for f in vars(m).values() if isinstance(f, CPUDispatcher)]
    return {f"{f.__module__}.{f.__name__}": f for f in functions}
def forms():
    return {name: len(f.signatures) for name, f in dispatchers().items()}
def loaded():
    return sum(sum(f.stats.cache_hits.values()) for f in dispatchers().values())
def compiled():
    return {name: sum(f.stats.cache_misses.values()) for name, f in dispatchers().items() if f.stats.cache_misses}
"""


def run(code: str, *, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Run a program in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd or PACKAGE.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=2 * COMPILING_S,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with a copy of the package in it, without any caches."""
    shutil.copytree(PACKAGE, tmp_path / "here" / "edge_tracker", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "here"


FIRST_UPDATE = """
import numpy as np
from edge_tracker import EdgeDeepSort
tracker = EdgeDeepSort(embedder=None)
tracker.update(np.zeros((0, 4)))
tracker.update_tracks([([0, 0, 30, 60], 0.9, "cat")], embeds=[[1.0, 2.0]])
"""


@pytest.mark.slow
def test_with_a_warm_cache_nothing_is_compiled() -> None:
    run(FIRST_UPDATE)  # now the cache is warm
    assert run(f"{FIRST_UPDATE}\n{DISPATCHERS}\nprint(compiled())").stdout == "{}\n"


EVERYTHING = """
import numpy as np
from edge_tracker import EdgeDeepSort, Track
class Own(Track):
    def predict(self, kf):
        self.mean, self.covariance = kf.predict(self.mean, self.covariance)
        super().predict(kf)
    def update(self, kf, detection):
        kf.gating_distance(self.mean, self.covariance, detection.to_xyah()[None])
        self.mean, self.covariance = kf.update(self.mean, self.covariance, detection.to_xyah())
        super().update(kf, detection)
for arguments in ({}, {"nms_max_overlap": 0.5, "class_aware": True, "gating_only_position": True, "nn_budget": None},
                  {"drop_invalid": True, "override_track_class": Own, "max_age": 3}):
    tracker = EdgeDeepSort(embedder=None, **arguments)
    for frame in range(30):
        boxes = np.array([[40.0 * k + frame, 5, 30, 60] for k in range(frame % 5)]).reshape(-1, 4)
        for features in (np.eye(5)[:frame % 5], np.eye(5, dtype=np.float32)[:frame % 5, ::-1]):
            tracks = tracker.update_tracks([(box, 0.9, "cat") for box in boxes], embeds=features)
            [(t.to_ltwh(), t.to_ltrb(orig=True), t.mean, t.covariance, t.get_feature()) for t in tracks]
        tracker.update(boxes.astype(np.float32), np.ones(len(boxes)), np.arange(len(boxes)), features, dt=0.5)
        tracker.update(boxes, dt=2)
        again = EdgeDeepSort(embedder=None, **arguments)
        again.load_state_dict(tracker.state_dict())
    tracker.delete_all_tracks()
"""


# The same for `method="edge"`, with features given and asked for.
EVERYTHING_OF_EDGE = """
import numpy as np
from edge_tracker import EdgeDeepSort, Track
class Own(Track):
    def update(self, kf, detection):
        super().update(kf, detection)
class Units:
    dimension = 5
    def embed(self, frame, ltwh, masks=None, polygons=None):
        return np.eye(5, dtype=np.float32)[:len(ltwh)]
image = np.zeros((8, 8, 3), np.uint8)
for arguments in ({"embedder": None, "nms_max_overlap": 0.5, "class_aware": True}, {"embedder": Units()},
                  {"embedder": None, "override_track_class": Own},
                  {"embedder": Units(), "max_embeddings": 1, "override_track_class": Own}):
    tracker = EdgeDeepSort(method="edge", **arguments)
    for frame in range(30):
        boxes = np.array([[40.0 * k + frame, 5, 30, 60] for k in range(frame % 5)]).reshape(-1, 4)
        given = np.eye(5)[:frame % 5] if arguments["embedder"] is None else None
        tracks = tracker.update_tracks([(box, 0.99, "cat") for box in boxes], embeds=given, frame=image)
        [(t.to_ltwh(), t.to_ltrb(orig=True), t.mean, t.covariance, t.get_feature()) for t in tracks]
        if "override_track_class" not in arguments:
            tracker.update(boxes, np.ones(len(boxes)), np.arange(len(boxes)), given, frame=image, dt=0.5)
            tracker.update(boxes, frame=image, dt=2)
        again = EdgeDeepSort(method="edge", **arguments)
        again.load_state_dict(tracker.state_dict())
    tracker.delete_all_tracks()
"""


WARM_UP = "from edge_tracker.tracking.warmup import warm_up"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "everything"), [("deepsort", EVERYTHING), ("edge", EVERYTHING_OF_EDGE)])
def test_warming_up_leaves_nothing_to_compile_later(method: str, everything: str) -> None:
    out = run(
        f"{WARM_UP}\n{DISPATCHERS}\nwarm_up({method!r}, own_classes=True)\nbefore = forms()\n{everything}\n"
        "print({name: count for name, count in forms().items() if count != before.get(name, 0)})"
    ).stdout
    assert out.strip() == "{}", "these functions got forms that warmup() does not know"


@pytest.mark.slow
def test_the_cache_is_where_numba_is_told_to_put_it(copied: Path, tmp_path: Path) -> None:
    program = "import edge_tracker.tracking.assignment as a, numpy as np; print(a.solve(np.eye(3)), a.solve.stats)"
    first, second = (run(program, cwd=copied, NUMBA_CACHE_DIR=str(tmp_path / "cache")).stdout for _ in range(2))
    assert list((tmp_path / "cache").rglob("assignment.solve-*.nbi"))
    assert not list(copied.rglob("*.nbi"))
    assert "cache_hits=Counter()" in first
    assert "cache_misses=Counter()" in second


# A machine whose processor Numba cannot find out: it must not ask.
ANOTHER_PROCESSOR = """
import llvmlite.binding
def unknown():
    raise AssertionError("the processor of this machine was asked for")
llvmlite.binding.get_host_cpu_name = llvmlite.binding.get_host_cpu_features = unknown
"""


@pytest.mark.slow
def test_another_machine_can_use_a_copied_cache_for_generic_processors(tmp_path: Path) -> None:
    made, used = tmp_path / "made", tmp_path / "used"
    run(f"{WARM_UP}\nwarm_up('deepsort')", NUMBA_CACHE_DIR=str(made), NUMBA_CPU_NAME="generic")
    shutil.copytree(made, used)
    shutil.rmtree(made)
    program = f"{ANOTHER_PROCESSOR}\n{FIRST_UPDATE}\n{DISPATCHERS}\nprint(compiled(), loaded() > 0)"
    assert run(program, NUMBA_CACHE_DIR=str(used), NUMBA_CPU_NAME="generic").stdout == "{} True\n"
    # Without the variable it is of no use: what is in it is not for this machine's processor.
    one = "import edge_tracker.tracking.assignment as a, numpy as np\na.solve(np.eye(3))"
    program = f"{one}\n{DISPATCHERS}\nprint(loaded())"
    assert run(program, NUMBA_CACHE_DIR=str(used)).stdout == "0\n"


# Prepares detections of each kind, and prints the results and the names of the compiled code.
PREPARE = """
import numpy as np
from edge_tracker.tracking.detections import DETECTION, Given, prepare
from edge_tracker.tracking.edge.tables import EDGE_DETECTION
given = Given(np.array([[1.0, 2.0, 3.0, 4.0]] * 3), np.full(3, 0.5), np.arange(3), np.empty((0, 0), np.float32))
for dtype in KINDS:
    detections = np.zeros(3, dtype)
    prepare(detections, given, False)
    print(detections["origin"].tolist(), detections["confidence"].tolist(), detections["ltwh"][2].tolist())
print({form.fndesc.mangled_name for form in prepare.overloads.values()})
"""


@pytest.mark.slow
def test_each_method_may_be_compiled_by_a_process_of_its_own(tmp_path: Path) -> None:
    """By Numba's names two processes could cache different code under one, and a third would run the wrong one."""

    def prepared(kinds: str) -> list[str]:
        return run(PREPARE.replace("KINDS", kinds), NUMBA_CACHE_DIR=str(tmp_path)).stdout.splitlines()

    exact, edge, both = map(prepared, ("[DETECTION]", "[EDGE_DETECTION]", "[DETECTION, EDGE_DETECTION]"))
    assert exact[0] == edge[0] == "[0, 1, 2] [0.5, 0.5, 0.5] [1.0, 2.0, 3.0, 4.0]"
    assert both[:2] == [exact[0], edge[0]]
    assert exact[1] != edge[1]
    assert ast.literal_eval(both[2]) == ast.literal_eval(exact[1]) | ast.literal_eval(edge[1])


COMPILE_ONE = """
import fcntl
flock = fcntl.flock
def waiting(*arguments):
    print("waiting", flush=True)
    flock(*arguments)
fcntl.flock = waiting
import edge_tracker.tracking.arrays as arrays
print(arrays.nones(2))
"""


@pytest.mark.slow
def test_processes_save_compiled_code_one_after_the_other(tmp_path: Path) -> None:
    run("import edge_tracker.tracking.arrays", NUMBA_CACHE_DIR=str(tmp_path))
    (folder,) = (path for path in tmp_path.iterdir() if path.name.startswith("tracking_"))
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        child = subprocess.Popen(
            [sys.executable, "-c", COMPILE_ONE], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        assert not list(folder.glob("arrays.nones-*"))
    assert child.communicate(timeout=COMPILING_S)[0] == "[-1 -1]\n"
    assert len(list(folder.glob("arrays.nones-*"))) == 2


# Some frames of both methods, with misses, a crossing and features.
SOME_FRAMES = """
import json
import numpy as np
from edge_tracker import EdgeDeepSort
for method in ("deepsort", "edge"):
    rng = np.random.default_rng(0)
    tracker = EdgeDeepSort(method=method, embedder=None, nms_max_overlap=0.9)
    for frame in range(12):
        x = 30.0 + np.array([6, -6, 4]) * frame + np.array([0, 75, 200])
        boxes = np.stack([x, np.full(3, 20.0), np.full(3, 25.0), np.full(3, 60.0)], axis=1) + rng.normal(0, 0.5, (3, 4))
        features = (np.eye(3, 8) + rng.normal(0, 0.1, (3, 8))).astype(np.float32)
        seen = [k for k in range(3) if (frame + k) % 5]
        t = tracker.update(boxes[seen], np.full(len(seen), 0.95), None, features[seen])
        print(json.dumps([t.ids.tolist(), t.detection.tolist(), t.confirmed.tolist(), t.ltrb.tolist()]))
"""


def test_without_compiling_the_tracks_are_the_same() -> None:
    program = f"{SOME_FRAMES}\n{DISPATCHERS}\nprint(bool(dispatchers()))"
    compiled, plain = (run(program, NUMBA_DISABLE_JIT=value).stdout.splitlines() for value in ("0", "1"))
    assert (compiled.pop(), plain.pop()) == ("True", "False")
    assert len(compiled) == 24
    assert "[1, 2, 3], [1, 2, 0], [true, true, true]" in compiled[11]
    assert compiled == plain


@pytest.mark.slow
def test_a_cache_of_other_sources_is_not_used(copied: Path) -> None:
    """`show` has `kalman.box` compiled into it: if that changes, Numba by itself goes on with the old code."""
    program = """
import numpy as np
from edge_tracker.tracking.deepsort.tables import DeepSortTable
table = DeepSortTable()
table.tracks["mean"][0, :4] = 50, 50, 1, 10
table.tables.counts[0]["live"] = 1
print(table.shown()["ltrb"])
"""
    assert run(program, cwd=copied).stdout.split() == ["[[45.", "45.", "55.", "55.]]"]
    assert list(copied.rglob("tables.show-*.nbi"))
    source = copied / "edge_tracker" / "tracking" / "deepsort" / "kalman.py"
    text = source.read_text()
    assert text.count("height = max(mean[3], 0.0)") == 1
    source.write_text(text.replace("height = max(mean[3], 0.0)", "height = max(mean[3], 0.0) * 2"))
    assert run(program, cwd=copied).stdout.split() == ["[[40.", "40.", "60.", "60.]]"]


def test_what_is_dropped_of_a_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    drop = _drop_stale.__wrapped__  # which is not done twice in a process
    drop(cache)
    stamp = cache / "sources.sha256"
    assert len(stamp.read_text()) == 64
    (index := cache / "kalman.box-1.py311.nbi").touch()
    (other := cache / "store.cpython-311.pyc").touch()
    drop(cache)
    assert index.exists(), "the sources are the same"
    code = cache / "kalman.box-1.py311.1.nbc"
    for stale in ("", "0" * 64):
        index.touch()
        code.touch()
        stamp.write_text(stale)
        drop(cache)
        assert not index.exists()
        assert not code.exists()
        assert other.exists()
        assert len(stamp.read_text()) == 64
    (tmp_path / "file").touch()
    drop(tmp_path / "file" / "cache")  # cannot be made, which is no error


@pytest.mark.slow
def test_without_a_cache_it_warns_once_and_tracks_all_the_same(copied: Path, tmp_path: Path) -> None:
    """No folder can be written: neither the package's, nor the user's, nor the one asked for.

    Permissions do not bind root, so files stand where the folders would be made.
    """
    (block := tmp_path / "a file").touch()
    for folder in [copied / "edge_tracker", *(p for p in (copied / "edge_tracker").rglob("*") if p.is_dir())]:
        (folder / "__pycache__").touch()
    program = f"{FIRST_UPDATE}\nimport edge_tracker\nprint(edge_tracker.__file__, tracker.tracker.tracks[0].track_id)"
    # Compiling without optimisation takes half the time.
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), str(block / "cache"))
    done = run(program, cwd=copied, NUMBA_OPT="0", PYTHONDONTWRITEBYTECODE="1", **nowhere)
    assert done.stdout.splitlines()[-1] == f"{copied}/edge_tracker/__init__.py 1"
    assert done.stderr.count("RuntimeWarning") == 1
    assert done.stderr.count("NUMBA_CACHE_DIR") == 1
    assert not list(copied.rglob("*.nb*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux shows them")
def test_no_hidden_threads() -> None:
    program = f"""
import os
import numpy, scipy.linalg  # which Numba uses if it is there; their BLAS may have threads of its own, which sleep
before = len(os.listdir("/proc/self/task"))
{EVERYTHING}
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert run(program).stdout.strip() == "0"


def test_only_what_tracking_needs_is_imported() -> None:
    heavy = ("cv2", "onnxruntime", "onnx", "torch", "tensorrt", "pydantic", "supervision", "tritonclient", "grpc")
    out = run(f"{FIRST_UPDATE}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])").stdout
    assert out.splitlines()[-1] == "[]"
