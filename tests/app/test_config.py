"""cam.yaml: what is read, what is refused, and how that is said."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_tracker import EdgeDeepSort
from edge_tracker.app.config.loading import load_config
from edge_tracker.app.config.named_models import served_models, wanted_models
from edge_tracker.app.config.reference import reference
from edge_tracker.app.config.schema import Config, EdgeConfig, TrackerConfig, cameras_of, keys_of, tracker_arguments
from edge_tracker.errors import ConfigError
from edge_tracker.tracking.deepsort.settings import DeepSortParameters
from edge_tracker.tracking.edge.settings import EdgeParameters, EdgeSettings
from edge_tracker.tracking.parameters import Common

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = "source:\n  uri: video.avi\n"


@pytest.fixture
def write(tmp_path):
    """Writes text to cam.yaml and returns its path."""

    def _write(text: str | bytes) -> Path:
        path = tmp_path / "cam.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return _write


def refusal(path: Path, overrides=(), source=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, source)
    return str(caught.value).splitlines()


def test_defaults(write, tmp_path):
    config = load_config(write(MINIMAL))
    assert config.source.uri == str(tmp_path / "video.avi")
    assert config.device == "auto"
    assert config.detector.model is None
    assert config.detector.confidence == 0.3
    assert config.embedder.model == "mobilenetv2"
    assert config.outputs.mot is config.outputs.jsonl is config.outputs.video is None


def test_tracker_keys_are_edgedeepsorts_arguments():
    names = {"edge_settings" if name == "edge" else name for name in TrackerConfig.model_fields}
    assert names <= set(inspect.signature(EdgeDeepSort).parameters)


def test_tracker_defaults_are_edgedeepsorts_except_the_method():
    # EdgeDeepSort is a drop-in; the program takes what tracks best.
    parameters = inspect.signature(EdgeDeepSort).parameters
    for name, info in TrackerConfig.model_fields.items():
        expected = "edge" if name == "method" else parameters[{"edge": "edge_settings"}.get(name, name)].default
        assert info.default == expected, name


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_shipped_configurations_are_valid(name):
    load_config(ROOT / "configs" / name)


def test_the_examples_name_every_key(tmp_path):
    example = yaml.safe_load((ROOT / "configs/cam.yaml").read_text())
    appliance = yaml.safe_load((ROOT / "configs/appliance.yaml").read_text())
    camera = appliance["cameras"][0]
    assert set(example) | set(appliance) | set(camera) == set(Config.model_fields)
    for section, info in Config.model_fields.items():
        if section not in example:
            continue
        if not hasattr(info.annotation, "model_fields"):
            assert example[section] == info.default
            continue
        assert set(example[section]) == set(info.annotation.model_fields), section
        for key, field in info.annotation.model_fields.items():
            if (section, key) in (("source", "uri"), ("detector", "model"), ("detector", "classes")):
                continue
            if section != "outputs":
                assert example[section][key] == field.default, f"{section}.{key}"


def test_the_reference_is_what_the_schema_says():
    assert (ROOT / "docs/configuration-reference.md").read_text() == reference(), (
        "python -m edge_tracker.app.config.reference"
    )


def test_paths_are_relative_to_the_file(write, tmp_path, monkeypatch):
    path = write(
        "source: {uri: ../a.avi}\n"
        "detector: {model: m/d.onnx}\n"
        "embedder: {model: e.engine}\n"
        "outputs: {mot: out/t.txt, jsonl: /abs/t.jsonl}\n"
    )
    monkeypatch.chdir("/")
    config = load_config(path)
    assert Path(config.source.uri).resolve() == (tmp_path / "../a.avi").resolve()
    assert config.detector.model == str(tmp_path / "m/d.onnx")
    assert config.embedder.model == str(tmp_path / "e.engine")
    assert config.outputs.mot == str(tmp_path / "out/t.txt")
    assert config.outputs.jsonl == "/abs/t.jsonl"


def test_paths_of_the_command_line_are_relative_to_the_current_folder(write, tmp_path, monkeypatch):
    path = write(MINIMAL)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(path, ["outputs.mot=t.txt", "outputs.jsonl=t.jsonl", "detector={mot: d.txt}"], "b.avi")
    assert config.source.uri == str(tmp_path / "here/b.avi")
    assert config.outputs.mot == str(tmp_path / "here/t.txt")
    assert config.detector.mot == str(tmp_path / "here/d.txt")


def test_names_of_models_are_no_paths(write):
    config = load_config(write(MINIMAL + "detector: {model: yolov3-tiny}\nembedder: {model: clip_ViT-B/32}\n"))
    assert config.detector.model == "yolov3-tiny"
    assert config.embedder.model == "clip_ViT-B/32"


@pytest.mark.parametrize("uri", ["0", "/dev/video0", "rtsp://user:pw@host:554/a", "http://host/a.mjpg"])
def test_cameras_and_urls_are_left_as_they_are(write, uri):
    config = load_config(write(f"source: {{uri: '{uri}'}}\n"))
    assert str(config.source.uri) == uri
    assert load_config(write("source: {uri: 2}\n")).source.uri == 2


def test_overrides_are_yaml(write):
    config = load_config(
        write(MINIMAL + "tracker: {max_age: 10}\n"),
        [
            "tracker.max_age=60",
            "tracker.nn_budget=null",
            "detector.classes=[person, 2]",
            "detector.confidence=1e-3",
            "embedder.model=null",
            "tracker.gating_only_position=true",
        ],
    )
    assert config.tracker.max_age == 60
    assert config.tracker.nn_budget is None
    assert config.detector.classes == ["person", 2]
    assert config.detector.confidence == 0.001
    assert config.embedder.model is None
    assert config.tracker.gating_only_position is True


@pytest.mark.parametrize("method", ["edge", "deepsort"])
def test_the_tracker_gets_only_what_its_method_knows(method):
    section = TrackerConfig(method=method, max_age=60, max_embeddings=4)
    arguments, idle = tracker_arguments(section)
    assert idle == (["max_age"] if method == "edge" else ["max_embeddings"])
    assert EdgeDeepSort(embedder=None, **arguments).method == method


def test_each_key_of_the_tracker_is_a_parameter_with_the_trackers_own_default():
    parameters = {**Common()._asdict(), **DeepSortParameters()._asdict(), **EdgeParameters()._asdict()}
    parameters["edge"] = parameters.pop("edge_settings")
    keys = TrackerConfig().model_dump(exclude={"method"})
    assert keys == {key: parameters[key] for key in keys}
    assert parameters.keys() - keys.keys() == {"drop_invalid", "frame_rate"}


def test_each_method_has_keys_of_its_own():
    assert keys_of("edge") == ["max_embeddings", "selective", "edge"]
    assert keys_of("deepsort") == list(DeepSortParameters._fields)
    shared = TrackerConfig.model_fields.keys() - {*keys_of("edge"), *keys_of("deepsort")}
    assert shared == {"method", "nms_max_overlap", "class_aware"}


def test_a_later_override_wins_and_source_over_set(write, monkeypatch):
    config = load_config(write(MINIMAL), ["tracker.max_age=5", "tracker.max_age=6", "source.uri=1"], "rtsp://h/s")
    assert config.tracker.max_age == 6
    assert config.source.uri == "rtsp://h/s"


def test_the_address_of_a_model_stays_as_it_is_and_its_fallback_is_a_path(write, tmp_path):
    text = "embedder: {model: 'triton://[::1]:8001/a.onnx/2', fallback: x/a.onnx}\n"
    config = load_config(write(MINIMAL + text))
    assert config.embedder.model == "triton://[::1]:8001/a.onnx/2"
    assert config.embedder.fallback == str(tmp_path / "x/a.onnx")
    assert served_models(config) == [("embedder.model", "triton://[::1]:8001/a.onnx/2")]
    assert [key for key, *_ in wanted_models(config)] == ["detector.model", "embedder.fallback"]


def test_sections_with_all_keys_commented_out_are_left_out(write):
    config = load_config(write(MINIMAL + "tracker:\n  # max_age: 3\noutputs:\n"))
    assert config.tracker == TrackerConfig()


def test_no_images_are_needed_to_replay_detections_by_motion(write):
    config = load_config(write("detector: {mot: det.txt}\nembedder: {model: null}\n"))
    assert config.source.uri is None
    (line,) = refusal(write("detector: {mot: det.txt}\n"))
    assert "source.uri: missing" in line


def test_utf8_with_and_without_a_mark(write):
    assert load_config(write("\ufeff" + MINIMAL))
    assert load_config(write("source: {uri: Straße.avi}\n")).source.uri.endswith("Straße.avi")


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "parts"),
    [
        (
            "tracker: {max_agee: 3}",
            ":1",
            ["tracker.max_agee", "unknown key", "value 3", "mean tracker.max_age?"],
        ),
        ("tracker:\n  max_age: old", ":2", ["tracker.max_age", '"old"', "expected a whole number"]),
        ("tracker: {max_age: 2.5}", ":1", ["tracker.max_age", "2.5", "expected a whole number"]),
        ("tracker: {max_age: '30'}", ":1", ["tracker.max_age", '"30"', "expected a whole number"]),
        ("tracker: {max_age: true}", ":1", ["tracker.max_age", "true", "expected a whole number"]),
        ("tracker: {max_age: 0}", ":1", ["tracker.max_age", "0", "from 1"]),
        ("tracker: {max_age: null}", ":1", ["tracker.max_age", "null", "expected a whole number"]),
        ("tracker: {max_cosine_distance: .nan}", ":1", ["tracker.max_cosine_distance", "expected a number from 0"]),
        ("tracker: {max_iou_distance: .inf}", ":1", ["tracker.max_iou_distance", "expected a number from 0 to 1"]),
        ("tracker: {gating_only_position: 1}", ":1", ["gating_only_position", "1", "expected true or false"]),
        ("tracker: 3", ":1", ["tracker", "3", "expected a section with keys such as"]),
        ("tracker: [1]", ":1", ["tracker", "[1]", "expected a section"]),
        ("detector: {confidence: 30}", ":1", ["detector.confidence", "30", "from 0 to 1"]),
        ("detector: {classes: person}", ":1", ["detector.classes", '"person"', "[person, car]"]),
        ("detector: {classes: [person, 2.5]}", ":1", ["detector.classes[1]", "2.5", "[person, car]"]),
        ("detector: {classes: []}", ":1", ["detector.classes", "[person, car]"]),
        ("detector: {model: ''}", ":1", ["detector.model", '""', "yolov3-tiny"]),
        ("detector: {model: a.onnx, mot: b.txt}", ":1", ["detector.mot", "b.txt", "give one of the two"]),
        ("embedder: null", ":1", ["embedder", "embedder.model: null"]),
        ("embedder: {model: 'triton://a/b'}", ":1", ["embedder.model", "triton://a/b", "triton://HOST:PORT/MODEL"]),
        ("embedder: {model: 'triton:a'}", ":1", ["embedder.model", "triton:a", "triton://HOST:PORT/MODEL"]),
        ("embedder: {model: 'triton://a:99999/b'}", ":1", ["embedder.model", "99999", "triton://HOST:PORT/MODEL"]),
        ("detector: {model: 'triton://a:1/b/c.onnx'}", ":1", ["detector.model", '"triton://a:1/b/c.onnx"', "VERSION"]),
        ("detector: {model: 'triton://me:pw@a:1/b'}", ":1", ["detector.model", "***", "triton://HOST:PORT/MODEL"]),
        ("detector: {model: 'triton://a:1/b', fallback: 'triton://c:1/b'}", ":1", ["detector.fallback", "local"]),
        ("embedder: {fallback: mobilenetv2}", ":1", ["embedder.fallback", "without embedder.model: triton://"]),
        ("detector: {deadline_ms: 30}", ":1", ["detector.deadline_ms", "30", "without detector.model: triton://"]),
        ("embedder: {model: 'triton://a:1/b', deadline_ms: 0}", ":1", ["embedder.deadline_ms", "0", "from 1 to"]),
        ("device: gpu", ":1", ["device", '"gpu"', "one of auto, cpu, cuda, tensorrt"]),
        ("device: cudaa", ":1", ["device", "did you mean cuda?"]),
        ("confidence: 0.5", ":1", ["confidence", "unknown key", "did you mean detector.confidence?"]),
        ("nonsense: 1", ":1", ["nonsense", "unknown key", "did you mean zones?"]),
        ("12: 1", "", ["12", "unknown key"]),
        ("outputs: {video: a.webm}", ":1", ["outputs.video", "a.webm", ".mp4 or .avi"]),
        ("outputs: {mot: video.avi}", ":1", ["outputs.mot", "source.uri", "overwritten"]),
        ("outputs: {mot: x/../cam.yaml}", ":1", ["outputs.mot", "the configuration", "overwritten"]),
        ("outputs: {mot: a.txt, jsonl: ./a.txt}", ":1", ["outputs.jsonl", "outputs.mot", "overwritten"]),
        ("detector: {mot: a.txt}\noutputs: {mot: a.txt}", ":2", ["outputs.mot", "detector.mot", "overwritten"]),
        ('outputs: {mot: "a\\nb"}', ":1", ["outputs.mot", "expected a path"]),
        ('outputs: {mot: "a\\0b"}', ":1", ["outputs.mot", "expected a path"]),
    ],
)
def test_bad_values(write, text, place, parts):
    path = write(text + "\n" + MINIMAL)
    (line,) = refusal(path)
    assert line.startswith(f"{path}{place}: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("source: {uri: ftp://0}", ["source.uri", "ftp://0", "unknown scheme", "rtsp"]),
        ("source: {uri: -1}", ["source.uri", "-1", "a camera number"]),
        ("source: {uri: 3.5}", ["source.uri", "3.5", "a video file"]),
        ("source: {fps: 0, uri: 0}", ["source.fps", "0", "above 0"]),
        ("source: {}", ["source.uri", "missing", "a video file"]),
        ("device: cpu", ["source.uri", "missing"]),
        ("source: {uri: [1]}", ["source.uri", "[1]"]),
    ],
)
def test_bad_sources(write, text, parts):
    (line,) = refusal(write(text))
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b: c", ":1:5: not valid YAML"),
        ("source:\n  uri: 1\n uri: 2", ":3:"),
        ("[1", ":1:3: not valid YAML"),
        ("a: *nowhere", ":1:4: not valid YAML: found undefined alias"),
        ("a: !!python/object/apply:os.system [id]", ":1:4: not valid YAML"),
        ("\tsource: 1", ":1:1: not valid YAML"),
        ("source: {uri: 0}\nsource: {uri: 1}", ":2:1: not valid YAML: the key 'source' is already in line 1"),
        ("source:\n  uri: 0\n  uri: 1", ":3:3: not valid YAML: the key 'uri' is already in line 2"),
        ("? [1]\n: 2", ":1:3: not valid YAML: a key must be plain text"),
        ("a: &a [*a]", ":1:4: not valid YAML: nested too deeply"),
        ("x: " + "[" * 5000, "not valid YAML: nested too deeply"),
        ("x: 2024-99-99", "not valid YAML"),
        ("a: 1\x00", "not valid YAML: the character"),
        ("---\na: 1\n---\nb: 1", ":3:1: not valid YAML"),
        (b"\xff\xfe", "not UTF-8 text"),
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("- source", "holds a list"),
        ("source", "holds a single value"),
        ("x" * (2 << 20), "larger than 1024 KiB"),
    ],
)
def test_bad_yaml(write, text, said):
    path = write(text)
    (line,) = refusal(path)
    assert line.startswith(str(path))
    assert said in line


def test_merge_keys_may_be_overridden(write):
    text = "a: &a {max_age: 3, n_init: 2}\nb: &b {<<: *a, max_age: 4}\ntracker: {<<: *b, max_age: 5}\n"
    lines = refusal(write(text + MINIMAL))
    assert len(lines) == 2, "a and b are unknown keys; the merges are fine"
    assert all("unknown key" in line for line in lines)


def test_an_alias_bomb_is_refused_quickly(write):
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for i in range(1, 9):
        text += f"{'abcdefghi'[i]}: &{'abcdefghi'[i]} [{', '.join(['*' + 'abcdefghi'[i - 1]] * 9)}]\n"
    lines = refusal(write(text))
    assert any("not valid YAML" in line or "unknown key" in line for line in lines)


def test_missing_file_folder_and_no_permission(tmp_path):
    assert "no such file" in refusal(tmp_path / "no.yaml")[0]
    assert "a folder" in refusal(tmp_path)[0]
    assert "cannot be read" in refusal(Path("/dev/null/x"))[0]


def test_all_problems_are_listed(write):
    lines = refusal(write("tracker: {max_age: -1, n_innit: 3}\ndetector: {confidence: 7}\ndevice: x\n" + MINIMAL))
    assert len(lines) == 4


def test_bad_overrides(write):
    path = write(MINIMAL)
    for text, said in [
        ("tracker.max_age", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("a..b=3", "expected section.key=value"),
        ("tracker.max_age=-3", "--set: tracker.max_age: -3 is not valid"),
        ("tracker.max_agee=3", "did you mean tracker.max_age?"),
        ("source.uri.x=3", "uri is a value, not a section"),
        ("detector.classes=[1", "not valid YAML"),
    ]:
        (line,) = refusal(path, [text])
        assert line.startswith("--set: ")
        assert said in line
    (line,) = refusal(path, source="foo://x")
    assert line.startswith("--source: source.uri: ")


@pytest.mark.parametrize("secret", ["rtsp://me:hunter2@h/s", "rtsp://me:hun/ter@2@h/s", "http://h/s?token=hunter2&x=1"])
def test_credentials_are_never_shown(write, secret):
    places = [
        (f"source: {{url: '{secret}'}}", [], None),
        (f"source: {{uri: ['{secret}']}}", [], None),
        ("source: {uri: 0}", [f"source.url={secret}"], None),
        ("source: {uri: 0}", [f"source.uri {secret}"], None),
        ("source: {uri: 0}", [f"source.uri=[{secret}"], None),
        ("source: {uri: 0}", [], "xx" + secret),
    ]
    for text, overrides, source in places:
        said = "\n".join(refusal(write(text), overrides, source))
        assert "hunter2" not in said
        assert "ter@2" not in said
        assert "me:" not in said


def complaints(path: Path, overrides=()) -> list[str]:
    """The lines of the error that `load_config` raises; empty if it raises none."""
    try:
        load_config(path, overrides)
    except ConfigError as error:
        return str(error).splitlines()
    return []


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
keys = st.sampled_from([*Config.model_fields, "uri", "model", "mot", "classes", "max_age", "video"]) | st.text(
    max_size=8
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@pytest.mark.slow
@settings(max_examples=300)
@given(data=st.dictionaries(keys, documents, max_size=5))
def test_any_document_is_taken_or_refused_in_single_lines(write, data):
    path = write(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))
    for line in complaints(path):
        assert line.startswith(str(path))


@settings(max_examples=300)
@given(raw=st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!'\"|>\n \t#?%@,0", max_size=40))
def test_any_bytes_are_taken_or_refused(write, raw):
    path = write(raw)
    for line in complaints(path):
        assert line.startswith(str(path))


@settings(max_examples=300)
@given(text=st.text(max_size=30) | st.builds("{}.{}={}".format, keys, keys, st.text(max_size=10)))
def test_any_override_is_taken_or_refused(write, text):
    path = write(MINIMAL)
    for line in complaints(path, [text]):
        assert line.startswith("--set: ")


# ---- several cameras -----------------------------------------------------------------------------------------------

TWO = """
cameras:
  - name: a
    source: {uri: a.avi}
  - name: b
    source: {uri: rtsp://h/b}
    tracker: {method: deepsort}
    zones: {door: {polygon: [[0, 0], [9, 0], [9, 9]]}}
outputs: {mot: "out/{camera}.txt"}
"""


def test_each_camera_has_its_own_sections_or_the_top_levels(write, tmp_path):
    first, second = cameras_of(load_config(write(TWO)))
    assert (first.name, second.name) == ("a", "b")
    assert first.source.uri == str(tmp_path / "a.avi")
    assert second.source.uri == "rtsp://h/b"
    assert (first.tracker.method, second.tracker.method) == ("edge", "deepsort")
    assert dict(first.outputs.paths()) == {"mot": tmp_path / "out/a.txt"}
    assert dict(second.outputs.paths()) == {"mot": tmp_path / "out/b.txt"}
    assert list(second.zones) == ["door"]


def test_one_camera_may_be_written_either_way(write):
    (alone,) = cameras_of(load_config(write("name: x\n" + MINIMAL)))
    (listed,) = cameras_of(load_config(write("cameras: [{name: x, source: {uri: video.avi}}]\n")))
    assert (alone.name, alone.source.uri, alone.tracker) == (listed.name, listed.source.uri, listed.tracker)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("cameras: [{name: a, source: {uri: 0}}, {name: a, source: {uri: 1}}]", ["cameras[1].name", '"a"', "another"]),
        ("cameras: [{name: a b, source: {uri: 0}}]", ["cameras[0].name", '"a b"', "letters, digits"]),
        ("cameras: [{source: {uri: 0}}]", ["cameras[0].name", "missing", "letters, digits"]),
        ("cameras: [{name: a}]", ["cameras[0].source.uri", "missing", "expected a video file"]),
        ("cameras: []", ["cameras", "[]", "expected a list of sections"]),
        ("cameras: [{name: a, source: {urii: 0}}]", ["cameras[0].source.urii", "mean cameras[0].source.uri?"]),
        ("cameras: [{name: a, source: {uri: ftp://x/y}}]", ["cameras[0].source.uri", "unknown scheme"]),
        (TWO.replace("{camera}", "all"), ["outputs.mot", "same file for every camera", "{camera}"]),
        (TWO + "source: {uri: c.avi}", ["source", "given as well as cameras", "cameras[0].source"]),
        (TWO + "detector: {mot: d.txt}", ["detector.mot", "there are several"]),
        ("zones: {z: {polygon: [[0, 0], [1, 1]]}}\n" + MINIMAL, ["zones.z.polygon", "three corners"]),
        ("lines: {l: {start: [1, 2], end: [1, 2]}}\n" + MINIMAL, ["lines.l.end", "two ends"]),
        ("lines: {l: {start: [1, 2]}}\n" + MINIMAL, ["lines.l.end", "missing", "a point"]),
        ("mqtt: {}\n" + MINIMAL, ["mqtt.host", "missing", "a broker"]),
        ("mqtt: {host: h, cert: c}\n" + MINIMAL, ["mqtt.key", "are given together"]),
        ("mqtt: {host: h, topic: a/#}\n" + MINIMAL, ["mqtt.topic", "without # and +"]),
        ("server: {port: 99999}\n" + MINIMAL, ["server.port", "99999", "0 to 65535"]),
        ("detector: {every: 2, hold_fps: 5}\n" + MINIMAL, ["detector.every", "one of the two"]),
    ],
)
def test_bad_cameras_and_sections(write, text, parts):
    lines = refusal(write(text + "\n"))
    assert any(all(part in line for part in parts) for line in lines), lines


def test_the_edge_section_has_the_methods_own_parameters_and_says_what_each_means():
    assert EdgeConfig().model_dump() == EdgeSettings()._asdict()
    assert all(info.description for info in EdgeConfig.model_fields.values())


def test_edge_settings_reach_the_tracker():
    config = load_config({"tracker": {"edge": {"memory": 4, "swap": 0}}}, ["tracker.edge.low=0.25"], needs_source=False)
    arguments, idle = tracker_arguments(config.tracker)
    assert arguments["edge_settings"] == EdgeSettings(memory=4.0, swap=0.0, low=0.25)
    assert idle == []
    assert tracker_arguments(load_config({}, needs_source=False).tracker)[0]["edge_settings"] is None
    tracker = EdgeDeepSort.from_config({"tracker": {"edge": {"memory": 4}}, "embedder": {"model": None}})
    assert tracker.method == "edge"


def test_edge_settings_mean_nothing_to_deepsort():
    config = load_config({"tracker": {"method": "deepsort", "edge": {"memory": 4}}}, needs_source=False)
    arguments, idle = tracker_arguments(config.tracker)
    assert idle == ["edge"]
    assert "edge" not in arguments
    assert "edge_settings" not in arguments


@pytest.mark.parametrize(
    ("edge", "complaint"),
    [
        ({"memry": 4}, "tracker.edge.memry: unknown key (value 4); did you mean tracker.edge.memory?"),
        ({"memory": -1}, "tracker.edge.memory: -1 is not valid; expected a number from 0 to 1000000"),
        ({"memory": "4"}, 'tracker.edge.memory: "4" is not valid; expected a number from 0 to 1000000'),
        (4, "tracker.edge: 4 is not valid; expected a section with keys such as "),
    ],
)
def test_what_is_wrong_in_the_edge_section_is_named(edge, complaint):
    with pytest.raises(ConfigError) as raised:
        load_config({"tracker": {"edge": edge}}, needs_source=False)
    assert complaint in str(raised.value)
