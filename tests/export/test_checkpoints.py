"""Files of weights: every published layout loads, and whatever else a file may be is refused with a clear line."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edge_tracker.errors import ModelError
from export.checkpoints import fill, fits, load_checkpoint

deprecated = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")


class Small(nn.Module):
    """A network with a bit of everything that checkpoints hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.full((), 2.0))
        self.register_buffer("steps", torch.tensor([3, 4]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stem(x).mean((2, 3))) * self.scale


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture
def network() -> Small:
    torch.manual_seed(0)
    network = Small().eval()
    network.stem(torch.randn(2, 3, 5, 5))
    return network


def assert_holds(path: Path, layout: str, weights: dict[str, torch.Tensor]) -> None:
    checkpoint = load_checkpoint(path)
    assert (checkpoint.path, checkpoint.layout) == (path, layout)
    assert checkpoint.tensors.keys() == weights.keys()
    for name, tensor in weights.items():
        found = checkpoint.tensors[name]
        assert found.dtype == (torch.float32 if tensor.is_floating_point() else tensor.dtype), name
        assert torch.equal(found, tensor.to(found.dtype)), name


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_state_dicts(network: Small, zipped: bool, prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    content = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(
        {wrapper: content, "epoch": 3, "lr": 0.1} if wrapper else content,
        tmp_path / "w.pth",
        _use_new_zipfile_serialization=zipped,
    )
    assert_holds(tmp_path / "w.pth", "pytorch", network.state_dict())


def test_numbers_of_numpy_beside_the_weights(network: Small, tmp_path: Path) -> None:
    # Torchreid notes the accuracy as NumPy gave it.
    extra = {"rank1": np.float64(0.9), "map": np.float32(0.5), "curve": np.arange(3.0)}
    torch.save({"state_dict": network.state_dict(), **extra}, tmp_path / "w.pth.tar")
    assert_holds(tmp_path / "w.pth.tar", "pytorch", network.state_dict())


def test_a_checkpoint_that_python_2_pickled(network: Small, tmp_path: Path) -> None:
    # Its strings are bytes strings to Python 3, as protocol 2 writes them for names it is told to be bytes.
    buffer = io.BytesIO()
    torch.save(dict(network.state_dict()), buffer, _use_new_zipfile_serialization=False)
    text = buffer.getvalue()
    for name in network.state_dict():
        raw = name.encode()
        text = text.replace(b"X" + len(raw).to_bytes(4, "little") + raw, b"U" + bytes([len(raw)]) + raw)
    assert text != buffer.getvalue()
    (tmp_path / "w.pth").write_bytes(text)
    assert_holds(tmp_path / "w.pth", "pytorch", network.state_dict())


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors(network: Small, kind: torch.dtype, tmp_path: Path) -> None:
    weights = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()
    }
    save_file(weights, tmp_path / "w.anything")
    assert_holds(tmp_path / "w.anything", "safetensors", weights)


@deprecated
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript_reads_what_torch_reads(network: Small, how: str, half: bool, tmp_path: Path) -> None:
    archive = torch.jit.trace(network, torch.zeros(1, 3, 8, 8)) if how == "trace" else torch.jit.script(network)
    (archive.half() if half else archive).save(tmp_path / "w.pt")
    assert_holds(tmp_path / "w.pt", "torchscript", torch.jit.load(tmp_path / "w.pt").state_dict())


@deprecated
def test_torchscript_shares_and_views_storages(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(24.0)
            self.register_buffer("turned", whole.reshape(4, 6).T)
            self.register_buffer("part", whole[5:9])
            self.register_buffer("none", torch.empty(0, 3))
            self.numbers = [1, 2]
            self.words = {"a": 1.5}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.turned * self.numbers[0] * self.words["a"]

    torch.jit.script(Views()).save(tmp_path / "w.pt")
    assert_holds(tmp_path / "w.pt", "torchscript", torch.jit.load(tmp_path / "w.pt").state_dict())


@deprecated
def test_torchscript_code_is_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Talks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        @torch.jit.export
        def __getstate__(self):
            return self.weight, self.training

        @torch.jit.export
        def __setstate__(self, state):
            # type: (Tuple[torch.Tensor, bool]) -> None
            print("executed")
            self.weight = state[0]
            self.training = state[1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Talks()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.inner(x))

    torch.jit.script(Outer()).save(tmp_path / "w.pt")
    torch.jit.load(tmp_path / "w.pt")
    assert "executed" in capfd.readouterr().out
    assert load_checkpoint(tmp_path / "w.pt").tensors.keys() == {"fc.weight", "fc.bias"}
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_refuses_code_beside_weights(network: Small, zipped: bool, tmp_path: Path) -> None:
    content = {"state_dict": network.state_dict(), "extra": Bomb(tmp_path / "mark")}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"w.pth: contains code \(posix.system\), not only weights"):
        load_checkpoint(tmp_path / "w.pth")
    assert not (tmp_path / "mark").exists()


def test_refuses_a_bare_pickle_with_code(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00trueR.")
    with pytest.raises(ModelError, match=r"w.pkl: "):
        load_checkpoint(tmp_path / "w.pkl")


def test_refuses_a_whole_pickled_network(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w.pth: contains code \(torch.nn.modules.container.Sequential\)"):
        load_checkpoint(tmp_path / "w.pth")


@deprecated
@pytest.mark.parametrize("name", ["posix\nsystem", "builtins\neval", "torch.serialization\nload", "torch\nload"])
def test_refuses_code_in_a_torchscript_archive(network: Small, name: str, tmp_path: Path) -> None:
    torch.jit.script(network).save(tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for member in good.namelist():
            content = good.read(member)
            if member.endswith("/data.pkl"):
                content = b"\x80\x02c" + name.encode() + b"\nX\x04\x00\x00\x00true\x85R."
            bad.writestr(member, content)
    with pytest.raises(ModelError, match=rf"bad.pt: contains code \({name.replace(chr(10), '.')}\)"):
        load_checkpoint(tmp_path / "bad.pt")


@deprecated
@pytest.mark.parametrize("layout", ["zip", "before 1.6", "torchscript", "safetensors"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99])
def test_refuses_a_truncated_file(network: Small, layout: str, part: float, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    if layout == "torchscript":
        torch.jit.script(network).save(path)
    elif layout == "safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=layout == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ModelError, match=r"w.bin: truncated or damaged \("):
        load_checkpoint(path)


@deprecated
def test_refuses_torchscript_views_outside_their_storage(network: Small, tmp_path: Path) -> None:
    torch.jit.script(network).save(tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for member in good.namelist():
            content = good.read(member)
            bad.writestr(member, content[:-4] if "/data/" in member else content)
    with pytest.raises(ModelError, match=r"bad.pt: truncated or damaged \(ValueError: storage \d+ has \d+ bytes"):
        load_checkpoint(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>Google Drive can't scan this file", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"GGUF1234", "neither a PyTorch"),
        (b"PK\x03\x04 and no more", "truncated or damaged"),
        (b"\x80\x02}.", "truncated or damaged"),
    ],
)
def test_refuses_what_is_not_weights(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError, match=f"w.pth: {reason}") as caught:
        load_checkpoint(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_refuses_a_zip_file_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match=r"w.zip: truncated or damaged"):
        load_checkpoint(tmp_path / "w.zip")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"epoch": 3}, "holds no weights, only epoch"),
        ({}, "an empty dict"),
        ([1, 2], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
    ],
)
def test_refuses_files_without_weights(content: object, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=reason):
        load_checkpoint(tmp_path / "w.pth")


def test_refuses_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere.pth: cannot be read"):
        load_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_fill_takes_a_network_from_the_meta_device(network: Small) -> None:
    with torch.device("meta"):
        empty = Small()
    weights = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    fill(empty, {**weights, "head.bias": torch.zeros(1)}, "x", ignore=["head."])
    assert not empty.training
    assert not any(tensor.is_meta for tensor in empty.state_dict().values())
    picture = torch.randn(1, 3, 8, 8)
    assert torch.equal(empty(picture), network(picture))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"fc.bias": None}, r"1 missing \(fc.bias\)"),
        ({"head.bias": torch.zeros(1)}, r"1 left over \(head.bias\)"),
        ({"fc.weight": torch.zeros(5, 3)}, r"1 of another shape \(fc.weight \(5, 3\) for \(5, 4\)\)"),
        ({"fc.bias": torch.full((5,), float("nan"))}, r"1 weights are not finite \(fc.bias\)"),
    ],
)
def test_fill_refuses_what_does_not_fit(network: Small, change: dict[str, torch.Tensor | None], complaint: str) -> None:
    weights = {name: tensor for name, tensor in {**network.state_dict(), **change}.items() if tensor is not None}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ModelError, match=f"file.pth: .*{complaint}"):
        fill(network, weights, "file.pth")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_fits(network: Small) -> None:
    weights = network.state_dict()
    assert fits(network, {**weights, "more": torch.zeros(1)})
    assert not fits(network, {**weights, "fc.bias": torch.zeros(4)})
    del weights["fc.bias"]
    assert not fits(network, weights)


def test_the_bomb_goes_off_when_unpickled(tmp_path: Path) -> None:
    """What the tests above rely on."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()
