"""State dicts are found wherever scripts put them, and products of weights carried out."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keras_resnet import from_checkpoint
from keras_resnet.weights.readers import read_arrays
from keras_resnet.weights.state_dicts import find_state_dict
from keras_resnet.weights.torch_pickle import Module

FIXTURES = Path(__file__).parents[1] / "fixtures"
RANDOM = np.random.default_rng(0)

pytestmark = pytest.mark.filterwarnings("ignore:The last stage sees")

STATE = load_file(FIXTURES / "timm_basic_v15.safetensors")
ONE = np.ones(1, "f4")


def prefixed(prefix: str, state: dict[str, Any] = STATE) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


def modules() -> Module:
    """As of TorchScript: modules in modules; one of them has two names."""
    root = Module()
    for key, value in STATE.items():
        *path, name = key.split(".")
        place = root
        for part in path:
            place = place.setdefault(part, Module(training=False))
        place[name] = value
    root["alias"] = root["layer1"]
    return root


@pytest.mark.parametrize(
    ("loaded", "note"),
    [
        (STATE, ""),
        *(({name: STATE, "epoch": 3}, f"from '{name}'") for name in ("weights", "params", "ema")),
        ({"run": {"best": {"x": STATE}}, "optimizer": {"lr": 0.1}}, "from 'run/best/x'"),
        ([STATE, {"lr": 0.1}], "from '0'"),
        ((STATE, {"lr": 0.1}), "from '0'"),
        ({"state_dict": STATE, "best_acc1": ONE}, "from 'state_dict'"),
        (
            {
                "state_dict": prefixed("x.", {**STATE, "fc.bias": 0 * STATE["fc.bias"]}),
                "ema": STATE,
            },
            "from 'ema' in the file, which also has 'state_dict'",
        ),
        (prefixed("module."), "prefix 'module.' removed"),
        ({**prefixed("module."), "n_averaged": np.array(3)}, "no weights of a network: n_averaged"),
        (prefixed("module._orig_mod.any.thing."), "prefix 'module._orig_mod.any.thing.'"),
        ({**prefixed("model."), "criterion.weight": ONE}, "network: criterion.weight"),
        ({**prefixed("model."), "acc.total": np.array([1, 2])}, "behind 'model.': acc.total"),
        (
            {**STATE, "total_ops": ONE, "layer1.0.total_params": ONE},
            "layer1.0.total_params, total_",
        ),
        (
            {
                k if not k.startswith("fc.") else f"m.head.{k}": v
                for k, v in {**prefixed("m.backbone."), **prefixed("", STATE)}.items()
                if k.startswith("fc.") or (k.startswith("m.") and ".fc." not in k)
            },
            "prefix 'm.backbone.'",
        ),
        (modules(), ""),
        ({"model": modules()}, "from 'model'"),
    ],
)
def test_state_dicts_are_found(loaded: Any, note: str) -> None:
    found = find_state_dict(loaded)
    assert found.values.keys() == STATE.keys()
    assert all(found.values[key] is STATE[key] for key in STATE)
    assert note in "; ".join(found.notes)
    assert bool(found.notes) == bool(note)


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        ({"epoch": 3, "lr": 0.1}, "a file without weights, only epoch, lr"),
        ([], "a file without weights"),
        (
            {"student": STATE, "teacher": STATE | {}},
            "2 state dicts: 'student' with bn1.* 'teacher'",
        ),
        ({"a": {"x": ONE}, "b": {"y": ONE}}, "2 state dicts: 'a' with x, 'b' with y. Save the one"),
        (prefixed("q.") | prefixed("k."), "2 ResNets, under the prefixes 'q.', 'k.'. Save the one"),
        ({**prefixed("m.backbone."), "m.fc.bias": ONE}, "two arrays for fc.bias"),
        (
            {**STATE, "fc.weight_orig": ONE, "fc.weight_mask": ONE},
            "fc.weight beside fc.weight_orig",
        ),
        ({"x_orig": ONE, "x_mask": np.ones(2)}, r"shape \(1,\) with a mask of \(2,\)"),
        ({"x_g": np.ones((2, 1)), "x_v": np.ones((3, 4))}, "weight norm of"),
        ({"x_orig": np.ones((2, 3)), "x_u": ONE, "x_v": np.ones(3)}, "spectral norm of"),
    ],
)
def test_what_is_none_or_several_is_listed(loaded: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_state_dict(loaded)


@pytest.mark.parametrize("prefix", ["model.", "wrapper.encoder."])
@pytest.mark.parametrize(
    "beside",
    [
        {"normalize.mean": np.ones((1, 3, 1, 1), "f4")},
        {"temperature": ONE},
        {"decoder.weight": np.ones((2, 2), "f4"), "wrapper.queue": np.ones((8, 4), "f4")},
    ],
)
def test_what_lies_beside_a_whole_network_is_left_out_and_named(
    prefix: str, beside: dict[str, Any]
) -> None:
    found = find_state_dict(prefixed(prefix) | beside)
    assert found.values.keys() == STATE.keys()
    assert not found.metadata
    names = ", ".join(sorted(beside))
    assert f"left out, as no part of the ResNet behind {prefix!r}: {names}" in found.notes


@pytest.mark.parametrize("gone", ["fc.", "conv1."])
def test_what_may_be_a_part_of_the_network_keeps_its_name(gone: str) -> None:
    """Loading refuses it by name, unless it is not strict."""
    part = {key: value for key, value in STATE.items() if not key.startswith(gone)}
    beside = {"other.weight": np.ones((2, 2), "f4"), f"{gone}weight": STATE[f"{gone}weight"]}
    if gone == "fc.":
        del beside["fc.weight"]
    found = find_state_dict(prefixed("encoder.", part) | beside | {"temperature": ONE})
    assert found.values.keys() == part.keys() | beside.keys()
    assert "left out, as no part of the ResNet behind 'encoder.': temperature" in found.notes


def test_a_classifier_beside_a_network_stays_where_buffers_go() -> None:
    head = {key: value for key, value in STATE.items() if key.startswith("fc.")}
    body = {key: value for key, value in STATE.items() if key not in head}
    found = find_state_dict(prefixed("backbone.", body) | head | {"scale": np.ones((4, 4), "f4")})
    assert found.values.keys() == STATE.keys()
    assert any(note.endswith(": scale") for note in found.notes)


def products(weight: np.ndarray) -> dict[str, tuple[dict[str, np.ndarray], np.ndarray]]:
    """How `torch.nn.utils` stores a weight, and what it computes with."""
    flat = weight.reshape(len(weight), -1)
    left, right = RANDOM.normal(size=len(flat)), RANDOM.normal(size=flat.shape[1])
    mask = (RANDOM.random(weight.shape) < 0.5).astype("f4")
    sigma = (left[:, None] * flat * right).sum()
    length = RANDOM.random((len(weight), *[1] * (weight.ndim - 1)))
    norms = np.stack([np.linalg.norm(row) for row in flat]).reshape(length.shape)
    return {
        "masks of pruning": ({"_orig": weight, "_mask": mask}, weight * mask),
        "weight norm": ({"_g": length, "_v": weight}, length * weight / norms),
        "weight norm of the whole": (
            {"_g": np.array(2.0), "_v": weight},
            2 * weight / np.linalg.norm(weight),
        ),
        "spectral norm": ({"_orig": weight, "_u": left, "_v": right}, weight / sigma),
    }


@pytest.mark.parametrize("kind", products(STATE["fc.weight"]))
@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "fc.weight"])
def test_products_are_carried_out(kind: str, key: str) -> None:
    parts, expected = products(STATE[key])[kind]
    state = {name: value for name, value in STATE.items() if name != key}
    found = find_state_dict(prefixed("module.", state | {key + x: parts[x] for x in parts}))
    assert found.values.keys() == STATE.keys()
    np.testing.assert_allclose(found.values[key], expected, rtol=1e-5, atol=1e-6)
    assert found.values[key].dtype == np.float32
    assert f"{kind.removesuffix(' of the whole')}" in found.notes[-1]
    # The parametrisations of later releases of torch.
    module, _, weight = key.rpartition(".")
    new = {"_g": ".original0", "_orig": ".original", "_u": ".0._u", "_mask": "", "_v": ".0._v"}
    if "weight norm" in kind:
        new["_v"] = ".original1"
    if "_mask" not in parts:
        place = f"{module}.parametrizations.{weight}"
        again = find_state_dict(state | {place + new[x]: parts[x] for x in parts})
        np.testing.assert_array_equal(again.values[key], found.values[key])


@pytest.mark.parametrize(("scale", "size"), [(1, 3), (255, 3), (1, 1)])
def test_constants_of_a_network_that_normalises_its_pixels_are_used(
    scale: int, size: int, tmp_path: Path
) -> None:
    mean, std = np.array([0.4, 0.5, 0.6], "f4")[:size], np.array([0.2, 0.3, 0.4], "f4")[:size]
    state = prefixed("model.") | {
        "normalize.mean": (scale * mean).reshape(1, size, 1, 1),
        "normalize.std": (scale * std).reshape(1, size, 1, 1),
    }
    save_file(
        {key: np.ascontiguousarray(x) for key, x in state.items()}, tmp_path / "m.safetensors"
    )
    model = from_checkpoint(tmp_path / "m.safetensors", input_shape=(64, 64, 3))
    layer = model.get_layer("normalization").get_config()
    np.testing.assert_allclose(layer["mean"], np.resize(255 * mean, 3), rtol=1e-4)
    assert f"deviation of pixels in [0, {scale}]" in "; ".join(model.load_report.notes)
    # In the model, and not only in the report.
    plain = from_checkpoint(
        FIXTURES / "timm_basic_v15.safetensors",
        input_shape=(64, 64, 3),
        mean=tuple(np.resize(255 * mean, 3).tolist()),
        std=tuple(np.resize(255 * std, 3).tolist()),
    )
    images = RANDOM.integers(0, 256, (2, 64, 64, 3)).astype("f4")
    np.testing.assert_allclose(model(images), plain(images), atol=1e-5)


# Files of TorchScript


def value(item: Any) -> bytes:
    """The instructions that make `item`."""
    return pickle.dumps(item, 2)[2:-1]


def torchscript(state: dict[str, Any], pickled: bytes | None = None) -> bytes:
    """An archive as `torch.jit.save` writes it: code is compressed, tensors are not."""
    storages: list[bytes] = []

    def instructions(tree: dict[str, Any]) -> bytes:
        items = [value("training") + b"\x89"]
        for name, item in tree.items():
            made = instructions(item) if isinstance(item, dict) else tensor(np.asarray(item, "<f4"))
            items.append(value(name) + made)
        return b"c__torch__.torch.nn\nModule\n)\x81}(" + b"".join(items) + b"ub"

    def tensor(array: np.ndarray) -> bytes:
        storages.append(array.tobytes())
        key = value("storage") + b"ctorch\nFloatStorage\n" + value(str(len(storages) - 1))
        strides = tuple(step // 4 for step in array.strides)
        view = value(0) + value(array.shape) + value(strides) + b"\x89"
        storage = b"(" + key + value("cpu") + value(array.size) + b"tQ"
        ends = view + b"ccollections\nOrderedDict\n)R"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + ends + b"tR"

    tree: dict[str, Any] = {}
    for key, array in state.items():
        *path, name = key.split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[name] = array
    made = pickled or b"\x80\x02" + instructions(tree) + b"."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", made)
        archive.writestr("m/code/__torch__.py", "x" * 5000, zipfile.ZIP_DEFLATED)
        archive.writestr("m/constants.pkl", b"\x80\x02).")
        for number, content in enumerate(storages):
            archive.writestr(f"m/data/{number}", content)
    return buffer.getvalue()


def test_torchscript_gives_the_logits_of_its_state_dict(tmp_path: Path) -> None:
    floats = {key: array for key, array in STATE.items() if "tracked" not in key}
    (tmp_path / "model.pt").write_bytes(torchscript(prefixed("model.", floats)))
    arrays = read_arrays(tmp_path / "model.pt")
    assert arrays.values.keys() == floats.keys()
    for key, array in floats.items():
        np.testing.assert_array_equal(arrays.values[key], array, err_msg=key)
    head = {"classifier_activation": None, "include_preprocessing": False}
    expected = np.load(FIXTURES / "timm_basic_v15_io.npz")
    model = from_checkpoint(tmp_path / "model.pt", input_shape=(64, 64, 3), **head)
    np.testing.assert_allclose(model(expected["x_nhwc"]), expected["logits"], atol=1e-4)


MODULE = b"c__torch__.x\nM\n)\x81"


@pytest.mark.parametrize(
    ("instructions", "said"),
    [
        (MODULE + b"}b", "a frozen TorchScript module.* Save the module before `torch.jit.freeze`"),
        (MODULE + b"q\x01}" + value("me") + b"h\x01sb", "frozen TorchScript|nested in itself"),
        (b"}" + value("a") + MODULE + b"s", "a file without weights, only a"),
        (MODULE + value("a") + value(1) + b"s", "other than a dict"),
        (b"ctorch.jit._pickle\nbuild_intlist\n)R", "damaged|no weights"),
        (b"c__torch__\nos.system\n" + value(("touch ran",)) + b"R", "frozen TorchScript module"),
        (b"c__torch\nsystem\n)R", "it was not run"),
    ],
)
def test_torchscript_that_has_no_weights_is_refused(
    instructions: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.pt").write_bytes(torchscript({}, b"\x80\x02" + instructions + b"."))
    with pytest.raises(ValueError, match=said):
        read_arrays("model.pt")
    assert [path.name for path in Path().iterdir()] == ["model.pt"]


def test_modules_under_endless_names_are_read_once() -> None:
    module = Module(weight=ONE)
    for _ in range(60):
        module = Module(a=module, b=module)
    assert len(find_state_dict(module).values) == 1
