"""Full-size networks of torch's packages, both ways: `pytest -m reference`.

Needs torch, torchvision, timm and transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet import create_model, from_checkpoint, save_torch_state_dict

from ..conftest import randomize

pytestmark = pytest.mark.reference

#: Package -> its model -> ours, and fields in which it differs.
NETWORKS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("torchvision", "resnet18", "resnet18", {}),
    ("torchvision", "resnet34", "resnet34", {}),
    ("torchvision", "resnet50", "resnet50", {}),
    ("torchvision", "resnet101", "resnet101", {}),
    ("torchvision", "resnet152", "resnet152", {}),
    ("torchvision", "resnext50_32x4d", "resnext50_32x4d", {}),
    ("torchvision", "resnext101_64x4d", "resnext101_64x4d", {}),
    ("torchvision", "wide_resnet50_2", "wideresnet50_2", {}),
    ("timm", "resnet26", "resnet50", {"blocks": (2, 2, 2, 2)}),
    ("timm", "resnet50c", "resnet50c", {}),
    ("timm", "resnet50s", "resnet50", {"stem": "C", "stem_filters": 128}),
    ("timm", "resnet18d", "resnet18d", {}),
    ("timm", "resnet50d", "resnet50d", {}),
    ("timm", "resnet101d", "resnet101d", {}),
    ("timm", "seresnet50", "seresnet50", {}),
    ("timm", "resnet50_gn", "resnet50_gn", {}),
    ("timm", "resnetblur50", "resnetblur50", {}),
    ("timm", "resnetv2_18", "resnet18v2", {"preact_layout": "unit_norm"}),
    ("timm", "resnetv2_50", "resnet50v2", {"preact_layout": "unit_norm"}),
    (
        "timm",
        "resnetv2_34d",
        "resnet34v2",
        {"preact_layout": "unit_norm", "stem": "C", "downsample": "average"},
    ),
    ("transformers", "basic", "resnet18", {}),
    ("transformers", "bottleneck", "resnet50", {}),
]


def torch_network(package: str, name: str, **fields: Any) -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    if package == "torchvision":
        network = getattr(pytest.importorskip("torchvision").models, name)(weights=None)
    elif package == "timm":
        network = pytest.importorskip("timm").create_model(name, pretrained=False, **fields)
    else:
        transformers = pytest.importorskip("transformers")
        basic = name == "basic"
        network = transformers.ResNetForImageClassification(
            transformers.ResNetConfig(
                layer_type=name,
                depths=[2, 2, 2, 2] if basic else [3, 4, 6, 3],
                hidden_sizes=[64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
                num_labels=1000,
            )
        )
    for key, value in network.state_dict().items():
        # Values such as training leaves: fresh BNs hide errors.
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif "running_mean" in key or (key.endswith("bias") and value.ndim == 1):
            value.uniform_(-0.2, 0.2)
        elif key.endswith("weight") and value.ndim == 1:
            value.uniform_(0.5, 1.0)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnetaa34d", {}, "average pooling in place of strides"),
        ("resnetv2_50x1_bit", {}, "standardize their weights"),
        ("resnet18", {"act_layer": "silu"}, "act_layer='silu'"),
        ("resnet18", {"global_pool": "max"}, "global_pool='max'"),
        ("resnetblur18", {"output_stride": 16}, None),
    ],
)
def test_what_timm_writes_beside_weights_tells_networks_of_equal_keys_apart(
    name: str, fields: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    hub = pytest.importorskip("timm.models._hub")
    network = torch_network("timm", name, **fields)
    hub.save_for_hf(network, tmp_path, safe_serialization=True)
    settings: dict[str, Any] = {"classifier_activation": None, "include_preprocessing": False}
    if message is not None:
        with pytest.raises(ValueError, match=message):
            from_checkpoint(tmp_path / "model.safetensors", **settings)
        return
    model = from_checkpoint(tmp_path / "model.safetensors", **settings)
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype("float32")
    expected = torch_logits(network, images)
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)


def torch_logits(network: Any, images: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        output = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return getattr(output, "logits", output).numpy()


@pytest.mark.parametrize(
    ("package", "theirs", "ours", "fields"), NETWORKS, ids=[f"{n[0]}-{n[1]}" for n in NETWORKS]
)
@pytest.mark.filterwarnings("ignore:The last stage sees")
def test_full_size_networks_agree_both_ways(
    package: str, theirs: str, ours: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    keras.backend.clear_session()
    network = torch_network(package, theirs)
    images = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype("float32")
    settings: dict[str, Any] = {
        "input_shape": (96, 96, 3),
        "classifier_activation": None,
        "include_preprocessing": False,
    }
    # Blur pooling has no weights that would show it, but its name does.
    torch.save({"state_dict": network.state_dict()}, tmp_path / f"{theirs}.pth")
    model = from_checkpoint(tmp_path / f"{theirs}.pth", **settings)
    expected = torch_logits(network, images)
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)

    model = create_model(ours, **settings, **fields)
    randomize(model)
    layout = "transformers" if package == "transformers" else None
    path = save_torch_state_dict(model, tmp_path / "ours.safetensors", layout)
    network.load_state_dict(load_file(path), strict=True)
    expected = np.asarray(model(images))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(torch_logits(network, images) / scale, expected / scale, atol=1e-4)
