"""`python -m export`: networks to ONNX files that the tracker runs."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from edge_tracker.errors import DeviceError, EdgeTrackerError
from export.families import (
    DEFAULT,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MODELS,
    PRECISIONS,
    YOLOV3_TINY,
    Detector,
    Embedder,
    file_of,
    find,
)

if TYPE_CHECKING:
    from edge_tracker.inference.builder import EngineOptions
    from export.artefacts import ExportedFile
    from export.network import Network

log = logging.getLogger("export")

EXAMPLES = """\
examples:
  python -m export                                        the default models: mobilenetv2 and yolov3-tiny
  python -m export --list                                 what there is, and where its weights come from
  python -m export torchreid --weights osnet_ain_ms_d_c.pth.tar
  python -m export clip_ViT-B/32 osnet_x0_25 --weights-dir ~/weights
  python -m export osnet_x1_0 --precision int8 --calibration my_crops
  python -m export reid.onnx --name my_reid --size 256x128
  python -m export --missing --triton repository          mobilenetv2 and yolov3-tiny for a Triton server
  python -m export my_module:make_network --name my_reid --size 256x128 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5

A file is written only after it has been compared with the network it comes from: on people in the demo video, in
--video, or on the crops of --crops. The figures and their limits are in export/parity.py; the results are printed, and
kept in the manifest.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m export",
        description="Export embedders and the default detector to ONNX, and check each file against its source.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "models", nargs="*", metavar="MODEL", default=list(DEFAULT),
        help="a name from --list, a reID network of your own as an .onnx file, or module:function that returns one in "
        f"torch (default: {' '.join(DEFAULT)})",
    )  # fmt: skip
    p.add_argument("--list", action="store_true", help="list the known models and exit")
    p.add_argument("-o", "--output", type=Path, default=Path("engines"), metavar="DIR", help="default: engines")
    p.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["fp32", "fp16"], metavar="P",
        help=f"of {', '.join(PRECISIONS)} (default: fp32 fp16)",
    )  # fmt: skip
    p.add_argument("--opset", type=int, choices=(16, 17), default=17, help="16 is for TensorRT 8.5 (default: 17)")
    p.add_argument("--missing", action="store_true", help="skip models whose files are there already")
    p.add_argument(
        "--triton", type=Path, metavar="DIR",
        help="also put the models into a Triton model repository, in the first of the precisions. With --missing, "
        "including those that are there already",
    )  # fmt: skip
    p.add_argument(
        "--triton-format", choices=("onnx", "plan"), default="onnx",
        help="put the ONNX file into the repository, or the TensorRT engine of this machine, for a server with the "
        "same GPU and TensorRT (default: onnx)",
    )  # fmt: skip
    p.add_argument("-q", "--quiet", action="store_true", help="print nothing but the table and errors")

    g = p.add_argument_group("weights")
    g.add_argument(
        "--weights", action="append", default=[], metavar="[NAME=]PATH",
        help="the weights of a model; the name is not needed for a single model. Can be repeated",
    )  # fmt: skip
    g.add_argument(
        "--weights-dir", action="append", type=Path, default=[], metavar="DIR",
        help="look for weights here by their published names, before ./weights. Can be repeated",
    )  # fmt: skip
    g.add_argument("--random-weights", action="store_true", help="use random weights, for tests and timings")

    g = p.add_argument_group("a network of your own")
    g.add_argument("--name", help="its name (default: the file's or function's name)")
    g.add_argument("--size", type=_size, metavar="HxW", help="height and width of its input, as 256x128")
    g.add_argument(
        "--mean",
        nargs=3,
        type=_number,
        default=IMAGENET_MEAN,
        metavar="M",
        help="on the 0..1 scale (default: ImageNet's)",
    )
    g.add_argument(
        "--std", nargs=3, type=_number, default=IMAGENET_STD, metavar="S",
        help="on the 0..1 scale (default: ImageNet's); 1/255 three times for a network that takes 0..255",
    )  # fmt: skip
    g.add_argument("--color", choices=("RGB", "BGR"), default="RGB", help="order of its channels (default: RGB)")
    g.add_argument(
        "--interpolation", choices=("linear", "cubic"), default="linear", help="how crops are resized (default: linear)"
    )

    g = p.add_argument_group("crops")
    g.add_argument(
        "--resize", choices=("stretch", "pad", "center-crop"),
        help="how a crop is brought to the input's size (default: as the family was trained, else stretch)",
    )  # fmt: skip
    g.add_argument("--calibration", type=Path, metavar="DIR", help="crops to determine INT8's ranges")
    g.add_argument("--crops", type=Path, metavar="DIR", help="compare on these crops; tracks are then not compared")
    g.add_argument("--video", type=Path, metavar="PATH", help="compare on the people in this video, not the demo video")
    g.add_argument(
        "--frames", type=int, default=150, metavar="N",
        help="number of frames of the video to compare on, 0 for all (default: 150; the demo video has 795, and with "
        "all of them a large network takes an hour)",
    )  # fmt: skip
    return p


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as 256x128")
    return int(match[1]), int(match[2])


def _number(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


@dataclass(frozen=True)
class OwnNetwork:
    """A network of the user's own: an .onnx file or "module:function", and its name."""

    where: str
    name: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Export what the command line asks for.

    Returns:
        0, or 2 after errors that the user can fix, or 130 after an interruption.
    """
    options = parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("export").setLevel(logging.WARNING if options.quiet else logging.INFO)
    # A plain `kill` should clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    made: list[ExportedFile] = []
    try:
        if options.list:
            print(listing())
            return 0
        return 2 if run(options, made) else 0
    except KeyboardInterrupt:
        print("interrupted: the listed files are complete, nothing else was written", file=sys.stderr)
        return 130
    except EdgeTrackerError as error:
        return _complain(str(error))
    except ModuleNotFoundError as error:
        return _complain(f"{error}; install what export needs: pip install 'edge-tracker[export,cpu]'")
    finally:
        if made:
            print(table(made))


def _complain(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2


def run(options: argparse.Namespace, made: list[ExportedFile]) -> int:
    """Export the models one after the other. One that fails doesn't keep the rest from being exported.

    Args:
        options: the command line.
        made: each file is appended once it is in place.

    Returns:
        The number of models that failed.

    Raises:
        EdgeTrackerError: the command line makes no sense.
    """
    models = [find(text) or _own(text, options) for text in options.models]
    given = _given(options.weights, [model.name for model in models])
    wanted = models
    if options.missing:
        wanted = [
            model
            for model in models
            if not all(file_of(options.output, model.name, precision).is_file() for precision in options.precision)
        ]
    failed = _export(wanted, options, given, made) if wanted else 0
    if options.triton is not None:
        failed += write_repository(options, [model.name for model in models])
    return failed


def _export(
    models: Sequence[Embedder | Detector | OwnNetwork],
    options: argparse.Namespace,
    given: dict[str, Path],
    made: list[ExportedFile],
) -> int:
    """As `run`, for these models."""
    # Imported only here, so that --list and --missing do not wait for torch.
    from export import artefacts
    from export.weights import locate

    def weights(model: Embedder | Detector) -> Path:
        return locate(model, given, options.weights_dir)

    gate = artefacts.Gate(lambda: weights(YOLOV3_TINY), options.crops, options.video, options.frames or None)

    def export(model: Embedder | Detector | OwnNetwork) -> Iterator[ExportedFile]:
        if isinstance(model, Detector):
            return artefacts.export_detector(weights(model), options.output, gate, options.precision, options.opset)
        network = _network(model, options, weights)
        return artefacts.export_embedder(
            network, options.output, gate, options.precision, options.opset, options.calibration
        )

    return sum(not _succeeds(export, model, made) for model in models) + build_engines(made)


def build_engines(made: Sequence[ExportedFile]) -> int:
    """Build the engines of the exported models if there are TensorRT and a GPU; otherwise do nothing.

    Returns:
        The number of engines that failed.
    """
    from edge_tracker.inference.builder import import_tensorrt
    from edge_tracker.inference.cuda import open_cuda
    from edge_tracker.inference.engines import ensure_engine

    try:
        trt, gpu = import_tensorrt(), open_cuda().gpu
    except DeviceError:
        return 0
    failed = 0
    for file in made:
        if file.precision == "fp32":  # TensorRT uses the files beside it
            try:
                log.info("%s is in place", ensure_engine(file.path, _engine_options(file.name), trt=trt, gpu=gpu))
            except EdgeTrackerError as error:
                failed += 1
                _complain(str(error))
    return failed


def _engine_options(name: str) -> EngineOptions:
    from edge_tracker.inference.builder import EngineOptions

    return EngineOptions(batch=1) if isinstance(find(name), Detector) else EngineOptions()


def write_repository(options: argparse.Namespace, names: Sequence[str]) -> int:
    """Put exported models into a Triton model repository.

    Returns:
        The number of models that failed.
    """
    from edge_tracker.inference.engines import ensure_engine
    from export.triton import write_model

    failed = 0
    for name in names:
        source = file_of(options.output, name, options.precision[0])
        if not source.is_file():
            continue  # its export failed, and said so
        try:
            plan = batch = None
            if options.triton_format == "plan":
                engine = _engine_options(name)
                plan, batch = ensure_engine(source, engine), engine.batch
            log.info("%s is in place", write_model(options.triton, name, source, plan, batch))
        except (EdgeTrackerError, OSError) as error:
            failed += 1
            _complain(str(error))
    return failed


def _succeeds(
    export: Callable[[Embedder | Detector | OwnNetwork], Iterator[ExportedFile]],
    model: Embedder | Detector | OwnNetwork,
    made: list[ExportedFile],
) -> bool:
    try:
        for file in export(model):
            made.append(file)
            log.info("%s is in place", file.path)
    except (EdgeTrackerError, OSError) as error:
        _complain(str(error))
        return False
    return True


def _own(text: str, options: argparse.Namespace) -> OwnNetwork:
    is_file = text.lower().endswith(".onnx")
    if not is_file and ":" not in text:
        known = ", ".join(name for model in MODELS for name in (model.name, *model.aliases))
        raise EdgeTrackerError(f"{text}: no such model; known are {known}; or give an .onnx file or module:function")
    if is_file and not Path(text).is_file():
        raise EdgeTrackerError(f"{text}: no such file")
    if options.size is None:
        raise EdgeTrackerError(f"{text}: the size of its images is missing; give --size HEIGHTxWIDTH, as 256x128")
    name = options.name or (Path(text).stem if is_file else text.rpartition(":")[2])
    if not re.fullmatch(r"[\w.-]+", name):
        raise EdgeTrackerError(f"{name!r} is not a valid file name: only letters, digits, '.', '_' and '-' (--name)")
    if find(name) is not None:
        raise EdgeTrackerError(f"{name} is the name of a known model; choose another with --name")
    return OwnNetwork(text, name)


def _given(entries: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """The --weights options by model name."""
    given = {}
    for entry in entries:
        asked, equals, path = entry.partition("=")
        model = find(asked) if equals else None
        if model is not None:
            if model.name not in (*names, YOLOV3_TINY.name):
                raise EdgeTrackerError(f"--weights {entry}: {asked} is not among the models to export")
            given[model.name] = Path(path).expanduser()
        elif len(names) == 1:
            given[names[0]] = Path(entry).expanduser()
        else:
            raise EdgeTrackerError(f"--weights {entry}: the model is missing; give NAME=PATH, with NAME as in --list")
    return given


def _network(model: Embedder | OwnNetwork, options: argparse.Namespace, weights: Callable[[Embedder], Path]) -> Network:
    from export import network

    if isinstance(model, Embedder):
        path = None if options.random_weights else weights(model)
        return network.from_family(model, path, options.resize)
    prepare = network.Preparation(
        height=options.size[0],
        width=options.size[1],
        mean=tuple(options.mean),
        std=tuple(options.std),
        color=options.color,
        resize=options.resize or "stretch",
        interpolation=options.interpolation,
    )
    if model.where.lower().endswith(".onnx"):
        return network.from_onnx(Path(model.where), model.name, prepare)
    return network.from_function(model.where, model.name, prepare)


def listing() -> str:
    """The known models as a table."""
    rows = [("name", "also", "network", "input", "output", "weights")]
    for model in MODELS:
        size, output = ("320x416", "boxes")
        if isinstance(model, Embedder):
            size, output = f"{model.known.height}x{model.known.width}", str(model.known.dimension)
        found = "fetched from" if model.weights.sources else f"{model.weights.file}, published at"
        rows.append(
            (model.name, ", ".join(model.aliases), model.network, size, output, f"{found} {model.weights.published}")
        )
    return _columns(rows)


def table(made: Sequence[ExportedFile]) -> str:
    """The files and how well they match their sources."""
    keys = [key for key in COLUMNS if any(key in file.figures for file in made)]
    rows = [("model", "precision", "opset", "MB", *(COLUMNS[key][0] for key in keys), "s", "file")]
    for file in made:
        figures = [format(file.figures[key], COLUMNS[key][1]) if key in file.figures else "" for key in keys]
        megabytes = file.path.stat().st_size / 1e6
        rows.append(
            (
                file.name,
                file.precision,
                str(file.opset),
                f"{megabytes:.1f}",
                *figures,
                f"{file.seconds:.0f}",
                str(file.path),
            )
        )
    return _columns(rows)


COLUMNS = {
    "min_cosine": ("least cosine", ".6f"),
    "max_error": ("largest error", ".1e"),
    "same_neighbour": ("same neighbour", ".3f"),
    "same_ids": ("same ids", ".3f"),
    "max_box_error": ("box error, px", ".1e"),
    "max_score_error": ("score error", ".1e"),
    "same_detections": ("same detections", ".3f"),
}


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
