"""Networks with the same keys that compute something else are told apart, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keras_resnet import ResNetConfig, build, from_checkpoint, load_weights, save_torch_state_dict
from keras_resnet.models.info import get_info
from keras_resnet.weights import readers

from ..fixtures.make_timm_dilated import FOLDER, PATH, image
from .test_load import tiny

BASIC, BOTTLENECK = (FOLDER / f"timm_{kind}_v15.safetensors" for kind in ("basic", "bottleneck"))
TRANSFORMERS = FOLDER / "transformers_bottleneck.safetensors"
BARE: dict[str, Any] = {"include_top": False, "include_preprocessing": False}
#: As timm's `save_for_hf` writes them.
PRETRAINED = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "num_classes": 7}
ARGUMENTS = {"num_classes": 7, "in_chans": 3, "global_pool": "avg"}

pytestmark = pytest.mark.filterwarnings("ignore:The last stage sees")


def beside(folder: Path, checkpoint: Path, config: Any) -> Path:
    """A copy of a checkpoint, with a `config.json` beside it."""
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return Path(shutil.copy(checkpoint, folder / "model.safetensors"))


def config_of(path: Path, **keywords: Any) -> ResNetConfig:
    config = get_info(from_checkpoint(path, **{"include_top": False, **keywords})).config
    assert config is not None
    return ResNetConfig(**config)


@pytest.mark.parametrize(
    ("checkpoint", "config", "message"),
    [
        (BASIC, {"architecture": "resnetaa50"}, "config.json says resnetaa50, .* average pooling"),
        (BASIC, {"architecture": "seresnextaa101d_32x8d"}, "average pooling in place of strides"),
        (BASIC, {"architecture": "resnetv2_50x1_bit"}, "standardize their weights"),
        (BASIC, {"architecture": "resnet18", "global_pool": "max"}, "global_pool='max'.*include_t"),
        (BASIC, {"architecture": "resnet18", "model_args": {"act_layer": "silu"}}, "'silu'"),
        (BASIC, {"model_args": {**ARGUMENTS, "aa_layer": "avg"}}, "aa_layer='avg'"),
        (BASIC, {"model_args": {"norm_layer": "layernorm2d"}}, "norm_layer='layernorm2d'"),
        (BASIC, {"model_args": {"block_args": {"attn_layer": "eca"}}}, "block_args="),
        (BASIC, {"model_args": {"output_stride": 7}}, "`output_stride` to be None or one of"),
        (TRANSFORMERS, {"model_type": "resnet", "hidden_act": "gelu"}, "hidden_act='gelu'"),
        (
            TRANSFORMERS,
            {"model_type": "resnet", "downsample_in_first_stage": True},
            "downsample_in_first_stage=True",
        ),
    ],
)
def test_config_json_refuses_what_this_package_does_not_have(
    checkpoint: Path, config: Any, message: str, tmp_path: Path
) -> None:
    path = beside(tmp_path, checkpoint, config)
    with pytest.raises(ValueError, match=f"Received: .*model.safetensors: .*{message}"):
        from_checkpoint(path)
    with pytest.raises(ValueError, match=message):
        build(tiny("basic"), classes=7, input_shape=(64, 64, 3), weights=path)


def test_config_json_says_blur_pooling_dilation_and_pixels(tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "output_stride": 16}
    config = {"architecture": "resnetblur18", "model_args": arguments, "pretrained_cfg": PRETRAINED}
    path = beside(tmp_path, BASIC, config)
    model = from_checkpoint(path, **BARE)
    expected = np.load(PATH)["basic blur 16"]
    np.testing.assert_allclose(model(image())[..., ::8], expected, rtol=1e-4, atol=1e-4)
    assert config_of(path).mean == (127.5,) * 3
    assert config_of(path).std == (63.75,) * 3
    assert "config.json says 'resnetblur18', blur_pool=True, output_stride=16" in str(
        model.load_report
    )
    strided = tiny("basic", mean=(127.5,) * 3, std=(63.75,) * 3)
    with pytest.raises(ValueError, match="it also has blur pooling"):
        build(strided, include_top=False, weights=path)
    # Something that is known to have none fits no blurred network.
    beside(tmp_path, BASIC, {**config, "architecture": "resnet18"})
    with pytest.raises(ValueError, match="it lacks blur pooling"):
        build(strided.replace(blur_pool=True), include_top=False, weights=path)


def test_blur_pooling_may_be_an_argument_and_pooling_is_the_classifiers(tmp_path: Path) -> None:
    config = {"architecture": "resnet18", "global_pool": "max", "model_args": {"aa_layer": "blur"}}
    assert config_of(beside(tmp_path, BASIC, config)).blur_pool


def test_config_json_of_transformers_says_where_strides_are(tmp_path: Path) -> None:
    config = {"model_type": "resnet", "hidden_act": "relu", "downsample_in_bottleneck": True}
    model = from_checkpoint(beside(tmp_path, TRANSFORMERS, config))
    info = get_info(model).config
    assert info is not None
    assert info["version"] == "v1"
    assert "3x3 of a bottleneck" not in str(model.load_report)
    assert config_of(TRANSFORMERS).version == "v1.5"


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ("{", "config.json beside it was not read"),
        ('{"a": ' * 100_000, "config.json beside it was not read"),
        (" " * (2**25 + 1), "not read: JSON of 33,554,433 bytes"),
        ({"registered_name": "Functional"}, None),
        ([], None),
    ],
)
def test_other_files_of_that_name_are_passed_over(
    config: Any, note: str | None, tmp_path: Path
) -> None:
    report = from_checkpoint(beside(tmp_path, BASIC, config)).load_report
    assert ("config.json" in str(report)) == (note is not None)
    assert note is None or note in str(report)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnetaa50d-4cf422b3", "its name says resnetaa50d-4cf.* average pooling.*rename"),
        ("resnetv2_50x1_bit.goog_in21k", "standardize their weights"),
        ("resnet50_gn_ws-15beedd8", "standardize their weights"),
        ("resnet50_msra-5891d200", "strides and the pixels of Caffe"),
    ],
)
def test_names_of_files_and_repositories_refuse(name: str, message: str, tmp_path: Path) -> None:
    cached = tmp_path / f"models--timm--{name}"
    named = tmp_path / f"{name}.safetensors"
    folder, snapshot = tmp_path / name / "model.safetensors", cached / "snapshots/0/m.safetensors"
    for path in (named, folder, snapshot):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BASIC, path)
    link = tmp_path / "link.safetensors"
    link.symlink_to(snapshot)
    for path in (named, folder, snapshot, link):
        with pytest.raises(ValueError, match=message):
            from_checkpoint(path)


def test_names_of_blurred_networks_build_them(tmp_path: Path) -> None:
    path = Path(shutil.copy(BOTTLENECK, tmp_path / "resnetblur50-84f4748f.safetensors"))
    model = from_checkpoint(path, **BARE)
    expected = np.load(PATH)["bottleneck blur 32"]
    np.testing.assert_allclose(model(image())[..., ::8], expected, rtol=1e-4, atol=1e-4)
    assert "its name says blur pooling" in str(model.load_report)
    with pytest.raises(ValueError, match="it also has blur pooling"):
        from_checkpoint(path, blur_pool=False)
    # `config.json` knows better.
    shutil.copy(path, tmp_path / "model.safetensors")
    beside(tmp_path, BOTTLENECK, {"architecture": "resnet50", "pretrained_cfg": PRETRAINED})
    assert not config_of(path).blur_pool


def test_metadata_of_files_says_what_config_json_does(tmp_path: Path) -> None:
    path, arrays = tmp_path / "model.safetensors", load_file(BASIC)
    for metadata, message in (
        ({"architecture": "resnetaa50"}, "its metadata says resnetaa50"),
        ({"model_args": json.dumps({"act_layer": "silu"})}, "act_layer='silu'"),
        ({"config": json.dumps({"architecture": "resnetaa50"})}, "its metadata says resnetaa50"),
    ):
        save_file(arrays, path, metadata)
        with pytest.raises(ValueError, match=message):
            from_checkpoint(path)
    save_file(arrays, path, {"format": "pt", "pretrained_cfg": json.dumps(PRETRAINED)})
    assert config_of(path).mean == (127.5,) * 3
    # What says nothing of the architecture leaves it to the other places.
    named = Path(shutil.copy(path, tmp_path / "resnetaa50.safetensors"))
    with pytest.raises(ValueError, match="its name says resnetaa50"):
        from_checkpoint(named)
    beside(tmp_path, BASIC, {"architecture": "resnetblur18"})
    assert config_of(named).blur_pool


def test_what_training_scripts_store_beside_weights_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(BASIC, tmp_path / "model_best.pth.tar"))
    stored = {"epoch": 3, "arch": "resnetblur18", "state_dict": load_file(BASIC)}
    monkeypatch.setattr(readers, "read_torch", lambda path: stored)
    assert config_of(path).blur_pool
    stored["arch"] = "resnetaa50"
    with pytest.raises(ValueError, match="its metadata says resnetaa50"):
        from_checkpoint(path)


def test_group_normalisation_in_timms_v2_standardises_weights(tmp_path: Path) -> None:
    config = ResNetConfig(
        "bottleneck", (1, 1), (32, 32), version="v2", preact_layout="unit_norm", norm="group"
    )
    model = build(config, include_top=False, input_shape=(64, 64, 3))
    ours = save_torch_state_dict(model, tmp_path / "ours.safetensors")
    from_checkpoint(ours)
    theirs = tmp_path / "theirs.safetensors"
    save_file(load_file(ours), theirs)
    with pytest.raises(
        ValueError, match="then standardize their weights .BiT.*such as resnetv2_50_gn"
    ):
        from_checkpoint(theirs)
    named = Path(shutil.copy(theirs, tmp_path / "resnetv2_14_gn.safetensors"))
    np.testing.assert_array_equal(from_checkpoint(named).get_weights()[0], model.get_weights()[0])


def test_reports_list_what_keys_do_not_show(tmp_path: Path) -> None:
    note = (
        "keys do not show these properties, taken from the model: ReLU, {}, {}, 3x3 max pooling in "
        "the stem, average before the classifier, no weight standardization, epsilon 1e-05"
    )
    model = from_checkpoint(BASIC)
    assert note.format("no anti-aliasing", "no dilation") in model.load_report.notes
    dilated = tiny("basic", blur_pool=True, output_stride=8)
    report = load_weights(build(dilated, include_top=False), BASIC)
    assert note.format("blur pooling", "dilation") in report.notes
    saved = save_torch_state_dict(model, tmp_path / "resnetaa50.safetensors")
    assert "keys do not show" not in str(from_checkpoint(saved).load_report)


@pytest.mark.parametrize(
    "fields",
    [
        {"blur_pool": True},
        {"downsample": "average"},
        {"shortcut": None},
        {"shortcut": "A"},
        {"shortcut": None, "version": "v2"},
        {"shortcut": "A", "version": "v2"},
    ],
)
def test_our_own_weights_files_show_layers_without_weights(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny("basic", stem_filters=None, **fields)
    model = build(config, include_top=False)
    model.save_weights(tmp_path / "model.weights.h5")
    assert config_of(tmp_path / "model.weights.h5") == config
