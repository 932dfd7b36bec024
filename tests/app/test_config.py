"""cam.yaml: what is read, what is refused, and how that is said."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_tracker import EdgeDeepSort
from edge_tracker.app.config import Config, TrackerConfig, load_config, tracker_arguments
from edge_tracker.errors import ConfigError

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
    assert set(TrackerConfig.model_fields) <= set(inspect.signature(EdgeDeepSort).parameters)


def test_tracker_defaults_are_edgedeepsorts_except_the_method():
    # EdgeDeepSort is a drop-in; the program takes what tracks best.
    parameters = inspect.signature(EdgeDeepSort).parameters
    for name, info in TrackerConfig.model_fields.items():
        expected = "edge" if name == "method" else parameters[name].default
        assert info.default == expected, name


@pytest.mark.parametrize("name", ["cam.yaml", "demo.yaml", "replay-mot.yaml"])
def test_shipped_configurations_are_valid(name):
    load_config(ROOT / "configs" / name)


def test_the_example_names_every_key_at_its_default():
    text = (ROOT / "configs/cam.yaml").read_text()
    example = yaml.safe_load(text)
    assert set(example) == set(Config.model_fields)
    for section, info in Config.model_fields.items():
        if section in ("device", "threads"):
            assert example[section] == info.default
            continue
        assert set(example[section]) == set(info.annotation.model_fields), section
        for key, field in info.annotation.model_fields.items():
            if (section, key) in (("source", "uri"), ("detector", "model"), ("detector", "classes")):
                continue
            if section != "outputs":
                assert example[section][key] == field.default, f"{section}.{key}"


def test_the_reference_describes_every_key():
    text = (ROOT / "docs/configuration.md").read_text()
    for section, info in Config.model_fields.items():
        keys = getattr(info.annotation, "model_fields", None)
        for key in [section] if keys is None else [f"{section}.{key}" for key in keys]:
            assert f"`{key}`" in text, f"docs/configuration.md does not describe {key}"


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


def test_a_later_override_wins_and_source_over_set(write, monkeypatch):
    config = load_config(write(MINIMAL), ["tracker.max_age=5", "tracker.max_age=6", "source.uri=1"], "rtsp://h/s")
    assert config.tracker.max_age == 6
    assert config.source.uri == "rtsp://h/s"


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
        ("device: gpu", ":1", ["device", '"gpu"', "one of auto, cpu, cuda, tensorrt"]),
        ("device: cudaa", ":1", ["device", "did you mean cuda?"]),
        ("confidence: 0.5", ":1", ["confidence", "unknown key", "did you mean detector.confidence?"]),
        ("nonsense: 1", ":1", ["nonsense", "unknown key", "expected one of device, threads, source"]),
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
        ("source: {uri: csi://0}", ["source.uri", "csi://0", "unknown scheme", "rtsp"]),
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
    """What `load_config` says, line by line; nothing if it is content."""
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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(keys, documents, max_size=5))
def test_any_document_is_taken_or_refused_in_single_lines(write, data):
    path = write(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))
    for line in complaints(path):
        assert line.startswith(str(path))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!'\"|>\n \t#?%@,0", max_size=40))
def test_any_bytes_are_taken_or_refused(write, raw):
    path = write(raw)
    for line in complaints(path):
        assert line.startswith(str(path))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30) | st.builds("{}.{}={}".format, keys, keys, st.text(max_size=10)))
def test_any_override_is_taken_or_refused(write, text):
    path = write(MINIMAL)
    for line in complaints(path, [text]):
        assert line.startswith("--set: ")
