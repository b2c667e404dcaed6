"""`weights=tag`: from a row of the registry to a network with its names, pixels and protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import keras_resnet
from keras_resnet import ResNet18V2, ResNet50, create_model, from_checkpoint, save_torch_state_dict
from keras_resnet.images.labels import imagenet_classes
from keras_resnet.models.info import get_info
from keras_resnet.networks.builders import weights_config
from keras_resnet.networks.table import VARIANTS
from keras_resnet.weights.fetch import cache_path
from keras_resnet.weights.registry import find_weights, list_weights

from ..conftest import randomize

pytestmark = pytest.mark.filterwarnings("ignore:The last stage sees")

SIZE = (64, 64, 3)
DEFAULT = find_weights("imagenet", "resnet18v2")
RESNET26 = find_weights("timm/resnet26.bt_in1k")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with files of random weights where those of two tags would lie."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_RESNET_HOME", str(folder))
        for entry in (DEFAULT, RESNET26):
            model = keras_resnet.build(weights_config(entry), input_shape=SIZE)
            randomize(model)
            save_torch_state_dict(model, cache_path(entry))
    return folder


@pytest.fixture(autouse=True)
def _cached(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_RESNET_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_the_default_brings_its_layout_pixels_names_and_protocol(home: Path) -> None:
    model = ResNet18V2(weights="imagenet", input_shape=SIZE)
    # The paper's layout, which this builder has by default, is nobody's; the checkpoint's is built.
    assert "conv1_bn" not in [layer.name for layer in model.layers]
    assert model.get_layer("normalization").get_config()["mean"] == [127.5] * 3
    info = get_info(model)
    assert info.weights == model.load_report.tag == DEFAULT.tag
    assert info.protocol == DEFAULT.protocol
    assert info.class_names is not None
    assert info.class_names[:2] == ("tench", "goldfish")
    predictor = keras_resnet.Predictor(model)
    image = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    ((best,),) = predictor.classify(image, top=1)
    own, name, probability = best
    column = int(np.asarray(model(image[None])).argmax())
    assert (own, name) == imagenet_classes()[column]
    assert 0 < probability <= 1
    again = from_checkpoint(DEFAULT.tag, input_shape=SIZE)
    np.testing.assert_array_equal(again(image[None]), model(image[None]))
    assert again.name == "resnet18v2"


def test_a_tag_may_be_of_another_depth_but_not_of_other_strides(home: Path) -> None:
    model = ResNet50(weights="resnet26.bt_in1k", input_shape=SIZE)
    assert keras_resnet.complexity(model).depth == 26
    with pytest.raises(ValueError, match="its strides are elsewhere: conv3_block1_2_conv"):
        ResNet50(weights="timm/resnet26.bt_in1k", input_shape=SIZE, version="v1")
    with pytest.raises(ValueError, match="normalizes pixels with"):
        create_model("resnet50", weights=RESNET26.tag, input_shape=SIZE, mean=(0, 0, 0))
    features = from_checkpoint(RESNET26.tag, include_top=False, output_stride=16)
    assert features.load_report.skipped == dict.fromkeys(
        ("fc.weight", "fc.bias"), "the model has no classifier"
    )
    assert get_info(features).class_names is None
    assert get_info(features).protocol == RESNET26.protocol


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("resnet18", "timm/resnet26.bt_in1k", "Expected weights of `resnet18`, such as .*resnet18"),
        (
            "resnet18",
            "timm/resnet18.a9_in1k",
            "of `list_weights.*mean timm/resnet18.a._in1k",
        ),
        ("resnet200", "imagenet", "a network that has default weights for 'imagenet'"),
        ("resnet20", "imagenet", "akamaster/resnet20.cifar10"),
    ],
)
def test_tags_that_do_not_fit_are_refused(model: str, weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(model, weights=weights)


def test_weights_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    entry = find_weights("imagenet", "resnet18")
    with pytest.raises(OSError, match=r"Expected to get the weights .*resnet18.*Put the file at"):
        create_model("resnet18", weights=entry.tag)


@pytest.mark.parametrize("tag", list_weights())
def test_every_row_is_a_network_that_the_loader_would_infer_or_be_told(tag: str) -> None:
    """What keys cannot show of a row's network is a convention of its package, or in the row."""
    entry = find_weights(tag)
    config = weights_config(entry)
    assert entry.model in VARIANTS
    torch = entry.download.file_name.endswith((".safetensors", ".pth", ".th"))
    if config.version != "v2" and config.block == "bottleneck":
        assert config.version == ("v1.5" if torch else "v1")
    if config.version == "v2":
        assert config.preact_layout == ("unit_norm" if torch else "unit_norm_stride_last")
        assert (config.stem == "C") == (config.downsample == "average")
    assert config.blur_pool == ("blur" in entry.model)
    assert config.shortcut == ("A" if entry.dataset == "cifar10" else "B")
