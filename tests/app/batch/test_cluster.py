"""Dividing a machine or a cluster among workers, and doing without Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_tracker.app.batch.cluster import Shares, Wanted, share
from edge_tracker.errors import ConfigError
from tests.waiting import COMPILING_S


@pytest.mark.parametrize(
    ("wanted", "cpus", "gpus", "own", "most", "shares"),
    [
        (Wanted(), 8, 0, True, None, (8, 1, 0)),
        (Wanted(), 8, 0, True, 3, (3, 2.6666, 0)),
        (Wanted(), 8, 0, True, 1, (1, 8, 0)),
        (Wanted(workers=2), 8, 0, True, 100, (2, 4, 0)),
        (Wanted(workers=4), 2, 0, True, 100, (4, 0.5, 0)),
        (Wanted(cpus=2), 8, 0, True, 100, (4, 2, 0)),
        (Wanted(cpus=16), 8, 0, True, 100, (1, 16, 0)),
        (Wanted(), 8, 1, True, 100, (8, 1, 0.125)),
        (Wanted(workers=3), 9, 1, True, 100, (3, 3, 0.3333)),
        (Wanted(workers=2), 8, 4, True, 100, (2, 4, 1)),
        (Wanted(gpus=0.5), 8, 1, True, 100, (2, 4, 0.5)),
        (Wanted(gpus=0), 8, 1, True, 100, (8, 1, 0)),
        (Wanted(), 64, 0, False, 100, (64, 1, 0)),
        (Wanted(workers=4), 64, 2, False, 100, (4, 1, 0.5)),
        (Wanted(workers=4, gpus=1), 64, 2, False, 100, (4, 1, 1)),  # a cluster may grow
        (Wanted(), 0, 0, False, 100, (1, 1, 0)),
    ],
)
def test_shares(wanted, cpus, gpus, own, most, shares):
    assert share(wanted, cpus, gpus, own, most) == Shares(*shares)


def test_gpus_that_are_not_there():
    with pytest.raises(ConfigError, match=r"--gpus: 4 workers with 0\.5 each need 2 GPUs, .* Ray finds 1; give fewer"):
        share(Wanted(workers=4, gpus=0.5), 8, 1, True, None)


def test_threads_are_divided():
    assert [Shares(1, cpus, 0).threads for cpus in (0.25, 1, 2.6666, 8)] == [1, 1, 2, 8]


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from edge_tracker.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_the_extra_it_says_so(tmp_path):
    arguments = ["batch", "--config", "cam.yaml", "--inputs", "a", "--output", "results"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=COMPILING_S,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-tracker: error: a batch needs Ray (")
    assert line.endswith("): pip install 'edge-tracker[ray]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ray_is_imported_by_a_batch_alone():
    code = (
        "import sys, edge_tracker.cli, edge_tracker.app.run.pipeline, edge_tracker.app.batch.processing\n"
        "from edge_tracker.app.batch import cluster\n"
        "print('ray' in sys.modules); cluster.import_ray(own=True); print('ray' in sys.modules)"
    )
    pytest.importorskip("ray", reason="needs Ray: pip install 'edge-tracker[ray]'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=COMPILING_S, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--overlap", "3"], "--overlap needs --cut"),
        (["--compare-uncut"], "--compare-uncut needs --cut"),
        (["--gpus", "1.5"], "argument --gpus: '1.5' is not valid; expected a share such as 0.5, or a whole number"),
        (["--cpus", "0"], "--cpus: 0 is not valid"),
        (["--workers", "0"], "argument --workers: '0' is not valid"),
        (["--cut", "-1"], "argument --cut: '-1' is not valid"),
    ],
)
def test_options_that_make_no_sense(arguments, said, capsys):
    from edge_tracker.cli import main

    given = ["batch", "--config", "cam.yaml", "--inputs", "a", "b", "--output", "results", *arguments]
    try:
        code = main(given)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert said in capsys.readouterr().err
