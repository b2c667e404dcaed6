from __future__ import annotations

import re
from collections import Counter

import pytest

from keras_resnet.analysis.complexity import complexity
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.networks.config import IMAGENET_MEAN, IMAGENET_STD, ResNetConfig
from keras_resnet.networks.table import get_config
from keras_resnet.weights import registry
from keras_resnet.weights.registry import WeightsEntry, find_weights, list_weights

from ..conftest import Run

TAGS = list_weights()

#: torchvision 0.28.0, `num_params` of each row.
TORCHVISION = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}
#: keras.applications, `model.count_params()`: statistics of the BNs and biases of convolutions
#: included.
KERAS = {
    "resnet50": 25_636_712,
    "resnet101": 44_707_176,
    "resnet152": 60_419_944,
    "resnet50v2": 25_613_800,
    "resnet101v2": 44_675_560,
    "resnet152v2": 60_380_648,
}
#: akamaster/pytorch_resnet_cifar10: trainable parameters in the files; those of ResNet-110 and
#: ResNet-1202 were not counted.
AKAMASTER = {"resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018}

DEFAULTS = {
    "resnet18": "timm/resnet18.a1_in1k",
    "resnet34": "timm/resnet34.a1_in1k",
    "resnet50": "timm/resnet50.a1_in1k",
    "resnet101": "timm/resnet101.a1_in1k",
    "resnet152": "timm/resnet152.a1_in1k",
    "resnet18v2": "timm/resnetv2_18.ra4_e3600_r224_in1k",
    "resnet34v2": "timm/resnetv2_34.ra4_e3600_r224_in1k",
    "resnet50v2": "timm/resnetv2_50.a1h_in1k",
    "resnet101v2": "timm/resnetv2_101.a1h_in1k",
    "resnet152v2": "keras/resnet152v2.imagenet",
    "wideresnet50_2": "timm/wide_resnet50_2.tv2_in1k",
    "wideresnet101_2": "timm/wide_resnet101_2.tv2_in1k",
    "resnext50_32x4d": "timm/resnext50_32x4d.a1_in1k",
    "resnext101_32x8d": "timm/resnext101_32x8d.tv2_in1k",
    "resnext101_64x4d": "timm/resnext101_64x4d.tv_in1k",
    "resnet50c": "timm/resnet50c.gluon_in1k",
    "resnet18d": "timm/resnet18d.ra4_e3600_r224_in1k",
    "resnet34d": "timm/resnet34d.ra2_in1k",
    "resnet50d": "timm/resnet50d.a1_in1k",
    "resnet101d": "timm/resnet101d.ra2_in1k",
    "resnet152d": "timm/resnet152d.ra2_in1k",
    "resnet200d": "timm/resnet200d.ra2_in1k",
    "resnetblur50": "timm/resnetblur50.bt_in1k",
    "resnet50_gn": "timm/resnet50_gn.a1h_in1k",
}
CIFAR_DEFAULTS = {f"resnet{n}": f"akamaster/resnet{n}.cifar10" for n in (32, 44, 56, 110, 1202)}
# It comes with the package.
CIFAR_DEFAULTS["resnet20"] = "keras_resnet/resnet20.cifar10_jpeg"


def config_of(entry: WeightsEntry) -> ResNetConfig:
    return get_config(entry.model).replace(**entry.config, mean=entry.mean, std=entry.std)


def test_table_has_every_publisher_and_no_tag_twice() -> None:
    assert Counter(tag.partition("/")[0] for tag in TAGS) == {
        "timm": 104,
        "torchvision": 17,
        "keras": 6,
        "akamaster": 6,
        "keras_resnet": 1,
    }
    assert sorted(set(TAGS)) == TAGS
    names = [tag.partition("/")[2] for tag in TAGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("tag", TAGS)
def test_every_row_is_a_network_with_the_published_number_of_parameters(tag: str) -> None:
    entry = find_weights(tag)
    cost = complexity(config_of(entry), classes=entry.classes)
    assert round(cost.params / 1e6, 2) == entry.params_millions
    publisher, _, name = tag.partition("/")
    network = name.partition(".")[0]
    if publisher == "torchvision":
        assert cost.params == TORCHVISION[network]
    elif publisher == "keras":
        # Each BN of v1 has two statistics per channel, and a convolution with a bias before it.
        biases = 0 if network.endswith("v2") else cost.bn_statistics // 2
        assert cost.params + cost.bn_statistics + biases == KERAS[network]
    elif network in AKAMASTER:
        assert cost.params == AKAMASTER[network]


@pytest.mark.parametrize("tag", TAGS)
def test_every_row_is_complete(tag: str) -> None:
    entry = find_weights(tag)
    assert entry.tag == tag
    own = get_config(entry.model)
    assert all(getattr(own, field) != value for field, value in entry.config.items())
    assert not {"mean", "std"} & entry.config.keys()
    assert (entry.dataset, entry.classes) in {("imagenet", 1000), ("cifar10", 10)}
    assert entry.license in {"Apache-2.0", "BSD-3-Clause", "BSD-2-Clause", "CC-BY-NC-4.0"}
    assert 65 < entry.top1 < (entry.top5 or 99) < 100
    assert entry.accuracy_source
    protocol = entry.protocol
    assert isinstance(protocol, EvalProtocol)
    assert 32 <= protocol.size <= protocol.resize <= protocol.size * 8 / 7
    assert protocol.interpolation in ("bilinear", "bicubic")
    for file in (entry.download, entry.download_without_top):
        if file is None:
            continue
        if file.packaged:
            assert (file.sha256, file.bytes) != (None, None)
        elif file.repo:
            assert (file.repo, file.file) == (tag, "model.safetensors")
            assert file.location == f"hf://{tag}/model.safetensors"
        else:
            assert re.fullmatch(r"https://[\w./-]+\.(pth|th|h5)", file.location)
            assert file.file_name == file.location.rsplit("/", 1)[1]
            assert file.sha256 or file.sha256_prefix or file.md5
        for digits, length in ((file.sha256, 64), (file.sha256_prefix, 8), (file.md5, 32)):
            assert digits is None or re.fullmatch(rf"[0-9a-f]{{{length}}}", digits)
        # A publisher's file name carries the beginning of the hash.
        if file.sha256_prefix:
            assert file.file_name.rpartition(".")[0].endswith(f"-{file.sha256_prefix}")
    assert (entry.download_without_top is not None) == tag.startswith("keras/")


def test_pixels_are_normalised_as_the_publishers_do() -> None:
    assert {(entry.mean, entry.std) for entry in map(find_weights, TAGS)} == {
        (IMAGENET_MEAN, IMAGENET_STD),
        ((127.5,) * 3, (127.5,) * 3),
        ((123.68, 116.779, 103.939), (1.0,) * 3),
    }
    reversed_channels = [tag for tag in TAGS if find_weights(tag).channel_order == "BGR"]
    assert reversed_channels == [f"keras/resnet{depth}.imagenet" for depth in (101, 152, 50)]
    assert all(find_weights(tag).mean == (123.68, 116.779, 103.939) for tag in reversed_channels)


@pytest.mark.parametrize(
    ("tag", "protocol", "top1", "top5"),
    [
        ("timm/resnet50.a1_in1k", EvalProtocol(224, 235, "bicubic"), 80.382, 94.598),
        ("timm/resnet50.tv2_in1k", EvalProtocol(224, 232, "bilinear"), 80.846, 95.43),
        ("timm/resnet50.a1h_in1k", EvalProtocol(224, 224, "bicubic"), 80.654, 95.312),
        ("timm/resnet101d.ra2_in1k", EvalProtocol(256, 269, "bicubic"), 82.254, 96.07),
        ("torchvision/resnet50.IMAGENET1K_V2", EvalProtocol(224, 232, "bilinear"), 80.858, 95.434),
        ("torchvision/resnet18.IMAGENET1K_V1", EvalProtocol(224, 256, "bilinear"), 69.758, 89.078),
        ("keras/resnet50v2.imagenet", EvalProtocol(224, 256, "bilinear"), 76.0, 93.0),
        ("akamaster/resnet20.cifar10", EvalProtocol(32, 32, "bilinear"), 91.73, None),
    ],
)
def test_accuracies_and_protocols(
    tag: str, protocol: EvalProtocol, top1: float, top5: float | None
) -> None:
    entry = find_weights(tag)
    assert (entry.protocol, entry.top1, entry.top5) == (protocol, top1, top5)


def test_networks_that_differ_from_their_name() -> None:
    configs = {
        "timm/resnet26d.bt_in1k": {"blocks": (2, 2, 2, 2)},
        "timm/resnet50s.gluon_in1k": {"stem": "C", "stem_filters": 128},
        "timm/resnetv2_34d.ra4_e3600_r224_in1k": {
            "preact_layout": "unit_norm",
            "stem": "C",
            "downsample": "average",
        },
        "timm/resnext101_32x4d.gluon_in1k": {"width_per_group": 4},
        "keras/resnet50.imagenet": {"version": "v1"},
        "keras/resnet50v2.imagenet": {"preact_layout": "unit_norm_stride_last"},
        "torchvision/resnet50.IMAGENET1K_V1": {},
    }
    assert {tag: find_weights(tag).config for tag in configs} == configs


def test_defaults_are_free_and_follow_the_rule() -> None:
    rows = [entry for entry in map(find_weights, TAGS) if entry.default]
    assert {row.model: row.tag for row in rows} == DEFAULTS | CIFAR_DEFAULTS
    assert len(rows) == len(DEFAULTS | CIFAR_DEFAULTS)
    for row in rows:
        assert "NC" not in row.license
        assert set(row.config) <= {"preact_layout"}
    for model, tag in DEFAULTS.items():
        assert find_weights("imagenet", model).tag == tag
    for model, tag in CIFAR_DEFAULTS.items():
        assert find_weights("cifar10", model).tag == tag


def test_every_network_with_free_weights_of_its_own_has_a_default() -> None:
    models = {
        entry.model
        for entry in map(find_weights, TAGS)
        if "NC" not in entry.license and set(entry.config) <= {"preact_layout"}
    }
    assert models == {*DEFAULTS, *CIFAR_DEFAULTS}


def test_patterns_match_the_whole_tag_or_what_follows_the_slash() -> None:
    assert list_weights("akamaster/resnet?0.*") == ["akamaster/resnet20.cifar10"]
    assert list_weights("resnet50.tv*") == ["timm/resnet50.tv2_in1k", "timm/resnet50.tv_in1k"]
    assert list_weights("*.imagenet1k_v2") == list_weights("torchvision/*_V2")
    assert len(list_weights("*.imagenet1k_v2")) == 7
    assert list_weights("nothing*") == []


def test_tags_are_found_whole_and_without_publisher() -> None:
    entry = find_weights("timm/resnet50.a1_in1k")
    assert find_weights("resnet50.a1_in1k") is entry
    assert (entry.model, entry.recipe) == ("resnet50", "arXiv:2110.00476")
    # Whether weights fit a network is not asked here.
    assert find_weights("timm/resnet50.a1_in1k", model="resnet18") is entry


@pytest.mark.parametrize(
    ("tag", "model", "message"),
    [
        (
            "timm/resnet50.a1_in1",
            None,
            r"Received: 'timm/resnet50.a1_in1'. Did you mean timm/resnet50.a1_in1k\?$",
        ),
        ("RESNET50.A1_IN1K", None, r"Did you mean resnet50.a1_in1k\?$"),
        ("resnet44", None, "Received: 'resnet44'. There are akamaster/resnet44.cifar10$"),
        ("no such thing", "resnet44", "There are akamaster/resnet44.cifar10$"),
        ("no such thing", None, "There are timm/resnet50.a1_in1k, "),
        ("imagenet", "resnet44", "'imagenet'. .*resnet44'. There are other .*resnet44.cifar10$"),
        (
            "cifar10",
            "resnet50",
            "'cifar10'. .*resnet50'. There are other .*: timm/resnet50.a1_in1k",
        ),
        ("imagenet", "resnet200", r"model='resnet200'. There are some for resnet101, resnet101d, "),
        ("imagenet", None, r"model=None. There are some for resnet101, resnet101d, "),
    ],
)
def test_unknown_tags_are_answered_with_known_ones(
    tag: str, model: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        find_weights(tag, model)


def test_name_that_two_publishers_use_needs_the_publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {tag: find_weights(tag) for tag in TAGS}
    twice = {
        f"{publisher}/net.x": WeightsEntry(
            **{**vars(entries["keras/resnet50.imagenet"]), "tag": f"{publisher}/net.x"}
        )
        for publisher in ("one", "two")
    }
    monkeypatch.setattr(registry, "_entries", lambda: entries | twice)
    with pytest.raises(ValueError, match="more than one .*: one/net.x, two/net.x. Received: 'net"):
        find_weights("net.x")
    assert find_weights("one/net.x").tag == "one/net.x"


def test_registry_and_fetch_are_cheap_to_import(run_new_python: Run) -> None:
    done = run_new_python(
        "import sys, keras_resnet.weights.fetch\n"
        "print(sorted({'keras', 'tensorflow', 'huggingface_hub'} & {*sys.modules}))"
    )
    assert done.stdout.strip() == "[]", done.stderr
