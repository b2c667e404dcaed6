from __future__ import annotations

import functools
import itertools
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet import ResNetConfig, build
from keras_resnet.networks.blocks import blur_pooling
from keras_resnet.weights.load import load_weights

from ..conftest import Run, randomize
from .numpy_network import NumpyNetwork, blurred


def small(block: str = "bottleneck", **fields: object) -> ResNetConfig:
    return ResNetConfig(block, (2, 2), (8, 16), **{"stem": "cifar", **fields})


CONFIGS = {
    "basic A": small("basic", shortcut="A"),
    "basic B": small("basic"),
    "basic C": small("basic", shortcut="C"),
    "plain": small("basic", shortcut=None),
    "v1 A": small(version="v1", shortcut="A"),
    "v1 B": small(version="v1"),
    "v1.5 A": small(shortcut="A"),
    "v1.5 B": small(),
    "v1.5 C": small(shortcut="C"),
    "plain bottleneck": small(shortcut=None),
    "grouped": small(groups=4, width_per_group=16),
    "imagenet stem": small(stem="imagenet"),
    "C stem": small(stem="C", stem_filters=12),
    "D shortcut": small(downsample="average"),
    "D shortcut C": small("basic", downsample="average", shortcut="C"),
    "squeeze-and-excitation": small(se_ratio=0.25),
    "blur pooling": small("basic", stem="imagenet", blur_pool=True),
    "blur pooling v1": small(version="v1", blur_pool=True),
    "group norm": small(norm="group", norm_groups=4),
    "width": small(width=1.7),
    "stochastic depth": small("basic", stochastic_depth=0.5),
    "zero init": small(zero_init_residual=True),
    "v2 basic A": small("basic", version="v2", shortcut="A"),
    "v2 A": small(version="v2", shortcut="A"),
    "v2 B": small(version="v2", stem="imagenet"),
    "v2 C": small(version="v2", shortcut="C"),
    "v2 plain": small(version="v2", shortcut=None),
    "v2 stride on 1x1": small(version="v2", preact_stride="1x1"),
    "v2 unit norm": small(version="v2", stem="imagenet", preact_layout="unit_norm"),
    "v2 stride last": small(version="v2", stem="imagenet", preact_layout="unit_norm_stride_last"),
    "v2 stride last A": small(
        "basic", version="v2", shortcut="A", preact_layout="unit_norm_stride_last"
    ),
    "v2 with everything": small(
        version="v2",
        stem="C",
        stem_filters=16,
        downsample="average",
        preact_layout="unit_norm",
        se_ratio=0.5,
        blur_pool=True,
        norm="group",
        norm_groups=2,
    ),
}


#: What differs from others in a combination only: these are among the longer proofs.
COMBINED = {
    *("basic B", "basic C", "v1 A", "v1.5 A", "v1.5 C", "plain bottleneck", "D shortcut C"),
    *("blur pooling v1", "v2 basic A", "v2 A", "v2 C", "v2 plain", "v2 stride last A"),
}
EVERY = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.full if name in COMBINED else ()) for name in CONFIGS],
)

SHAPE = (29, 26, 3)


@functools.cache
def network(name: str) -> keras.Model:
    """The network of a config, for odd image sizes and with logits."""
    model = build(CONFIGS[name], input_shape=SHAPE, classes=7, classifier_activation=None)
    randomize(model)
    return model


@EVERY
def test_built_model_costs_what_its_config_says(name: str) -> None:
    model = network(name)
    cost = keras_resnet.complexity(model)
    assert cost == keras_resnet.complexity(CONFIGS[name], SHAPE, classes=7)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == cost.params


@EVERY
def test_logits_equal_a_numpy_network(name: str) -> None:
    images = np.random.default_rng(3).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    expected = NumpyNetwork(network(name), CONFIGS[name])(images)
    assert expected.shape == (2, 7)
    np.testing.assert_allclose(network(name)(images), expected, rtol=1e-4, atol=1e-4)


def test_uint8_and_float_pixels_give_the_same() -> None:
    model = build(CONFIGS["basic A"], input_shape=(16, 16, 3))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(model(images), model(images.astype(np.float32)))


def test_normalization_is_in_the_graph_and_divides_by_the_standard_deviation() -> None:
    model = build(small(mean=(10, 20, 30), std=(2, 4, 5)), input_shape=(16, 16, 3))
    normalized = keras.Model(model.input, model.get_layer("normalization").output)
    image = np.full((1, 16, 16, 3), (14, 12, 40), np.uint8)
    np.testing.assert_allclose(normalized(image)[0, 0, 0], [2, -2, 2], rtol=1e-6)
    four = build(small(mean=(1, 2, 3, 4), std=(1, 1, 1, 1)), input_shape=(16, 16, 4))
    assert four.get_layer("normalization").get_config()["mean"] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="for 3 channels, or for RGB. Received: mean=.1.0, 2.0"):
        build(small(mean=(1, 2, 3, 4), std=(1, 1, 1, 1)))
    bare = build(small(), input_shape=(16, 16, 3), include_preprocessing=False)
    assert "normalization" not in [layer.name for layer in bare.layers]


@pytest.mark.full
def test_machines_set_to_channels_first_make_no_difference(tmp_path: Path, run_python: Run) -> None:
    code = """
import keras, numpy as np, sys
import keras_resnet
keras.config.set_image_data_format(sys.argv[1])
keras.utils.set_random_seed(0)
for shortcut in "AB":
    config = keras_resnet.ResNetConfig(
        "basic", (1, 1), (8, 16), stem="cifar", shortcut=shortcut
    )
    model = keras_resnet.build(config, input_shape=(16, 16, 3))
    model.save(f"{sys.argv[2]}/channels.keras")
    model = keras.saving.load_model(f"{sys.argv[2]}/channels.keras")
    images = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)).astype("float32")
    print(model(images).numpy().round(4).tolist())
"""
    first, last = (
        run_python(code, order, str(tmp_path)).stdout
        for order in ("channels_first", "channels_last")
    )
    assert first == last != ""


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
def test_any_number_of_channels(channels: int) -> None:
    model = build(small(), input_shape=(16, 16, channels))
    assert model.get_layer("conv1_conv").kernel.shape[2] == channels
    assert model(np.zeros((1, 16, 16, channels), np.uint8)).shape == (1, 10)


def test_heads_and_inputs() -> None:
    features = build(small(), include_top=False)
    assert features.input_shape == (None, None, None, 3)
    assert features(np.zeros((1, 17, 24, 3), np.uint8)).shape == (1, 9, 12, 64)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = build(small(), include_top=False, pooling=pooling, input_shape=(16, 16, 3))
        images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        last = keras.Model(pooled.input, pooled.get_layer("conv3_block2_out").output)(images)
        np.testing.assert_allclose(pooled(images), reduce(last, axis=(1, 2)), rtol=1e-5, atol=1e-6)
    tensor = keras.Input((16, 16, 3), name="mine")
    assert build(small(), input_tensor=keras.layers.Identity()(tensor)).input_shape == (
        None,
        16,
        16,
        3,
    )


@pytest.mark.parametrize("name", ["blur pooling", "D shortcut", "v2 with everything"])
def test_networks_of_free_size_take_any_image(name: str) -> None:
    """Down to one pixel, which blur pooling repeats as NumPy's reflection does."""
    model = build(CONFIGS[name], include_top=False, pooling="avg")
    fixed = build(CONFIGS[name], include_top=False, pooling="avg", input_shape=SHAPE)
    fixed.set_weights(model.get_weights())
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    np.testing.assert_allclose(model(images), fixed(images), rtol=1e-5, atol=1e-5)
    for height, width in ((1, 1), (1, 9), (4, 2), (17, 1)):
        assert np.isfinite(model(images[:, :height, :width])).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1), (7, 6)])
def test_blur_pooling_of_any_size_is_numpys(size: tuple[int, int]) -> None:
    tensor = keras.Input((None, None, 2))
    model = keras.Model(tensor, blur_pooling(tensor, "x", 2))
    pixels = np.random.default_rng(0).random((1, *size, 2), dtype=np.float32)
    np.testing.assert_allclose(model(pixels), blurred(pixels), rtol=1e-6)


def test_mixed_precision_keeps_normalization_and_head_in_float32() -> None:
    model = build(small(), input_shape=(16, 16, 3), dtype="mixed_bfloat16")
    computed = {layer.name: layer.compute_dtype for layer in model.layers}
    assert {computed["normalization"], computed["predictions"], computed["image"]} == {"float32"}
    assert {
        computed["conv1_conv"],
        computed["conv2_block1_1_bn"],
        computed["conv3_block2_add"],
    } == {"bfloat16"}
    assert keras.backend.standardize_dtype(model(np.zeros((1, 16, 16, 3))).dtype) == "float32"


def test_initialisation_is_that_of_torch() -> None:
    model = keras_resnet.ResNet18(input_shape=(128, 128, 3))
    kernel = model.get_layer("conv5_block2_1_conv").kernel
    assert float(np.std(kernel)) == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.01)
    head, bias = model.get_layer("predictions").get_weights()
    assert float(np.abs(head).max()) == pytest.approx(1 / np.sqrt(512), rel=1e-3)
    assert float(np.std(head)) == pytest.approx(1 / np.sqrt(3 * 512), rel=0.01)
    assert not bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "Expected `classes`.*Received: 0"),
        ({"classes": 2.5}, "Expected `classes`.*Received: 2.5"),
        ({"pooling": "mean", "include_top": False}, "Expected `pooling`.*pooling='mean'"),
        ({"pooling": "avg"}, "include_top=False"),
        ({"input_shape": (32, 32)}, r"channels last.*Received: \(32, 32\)"),
        ({"input_shape": (32, 32, None)}, r"Received: \(32, 32, None\)"),
        ({"input_shape": (0, 32, 3)}, r"Received: \(0, 32, 3\)"),
        (
            {"input_shape": (32, 2, 3), "stem": "imagenet"},
            "at least 5x5.*Received: 32x2.*stem='cifar'",
        ),
        ({"input_shape": (1, 1, 3)}, "at least 2x2.*Received: 1x1. Enlarge"),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "Keras tensor.*Received: ndarray"),
        (
            {"input_tensor": keras.Input((32, 32, 3)), "input_shape": (16, 16, 3)},
            "agree with `input_tensor`",
        ),
        (
            {
                "input_tensor": keras.Input((32, 32, 3), dtype="uint8"),
                "include_preprocessing": False,
            },
            "`input_tensor` of floats .*Received: dtype=uint8",
        ),
        ({"weights": "imagenet"}, "a network that has default weights for 'imagenet'"),
        ({"weights": "no/such.keras"}, "existing `.keras` or `.h5` file. Received: no/such.keras"),
        ({"weights": 3}, "Expected `weights` to be None, a path or a tag.*Received: weights=3"),
    ],
)
def test_bad_arguments_are_refused_in_keras_wording(
    arguments: dict[str, object], message: str
) -> None:
    config = small(stem=arguments.pop("stem", "cifar"))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build(config, **arguments)  # type: ignore[arg-type]


def test_small_final_map_warns_with_what_to_do() -> None:
    with pytest.warns(UserWarning, match=r"sees 64x64 images as 2x2 positions.*stem='cifar'"):
        keras_resnet.ResNet18(input_shape=(64, 64, 3))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.keras` file of `small()`."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    build(small(), input_shape=(16, 16, 3)).save(path)
    return path


def test_weights_are_copied_by_name(tmp_path: Path) -> None:
    model = build(small(), input_shape=(16, 16, 3), name="source")
    randomize(model)
    path = tmp_path / "model.keras"
    model.save(path)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        build(small(), input_shape=(16, 16, 3), weights=path)(images), model(images)
    )
    features = build(small(), include_top=False, pooling="avg", weights=str(path))
    expected = keras.Model(model.input, model.get_layer("avg_pool").output)(images)
    np.testing.assert_allclose(features(images), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (small(shortcut="C"), "it lacks conv2_block2_0_bn, conv2_block2_0_conv"),
        (small(shortcut=None), "it also has conv2_block1_0_bn"),
        (small(shortcut=None, version="v2"), "it lacks conv2_block2_preact_bn"),
        (
            small().replace(filters=(8, 32)),
            r"another conv3_block1_0_bn {'weights': \[\(64,\), .* and 11 more",
        ),
        # Other strides, shortcuts and pixels leave no trace in the shapes of the weights.
        (small(version="v1"), "conv3_block1_2_conv sees pixels 1 apart, the model's 2"),
        (small(downsample="average"), "it lacks conv3_block1_0_pool"),
        (small(blur_pool=True), "it lacks blur pooling"),
        (small(groups=2, width_per_group=32), "another conv2_block1_2_conv {'groups': 1"),
        (small(mean=(1, 2, 3)), r"normalizes pixels with mean=\(123.675, .*mean=\(1, 2, 3\)"),
    ],
)
def test_weights_of_another_network_are_refused(
    saved: Path, config: ResNetConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(config, input_shape=(16, 16, 3), weights=saved)


#: The other combinations are among the longer proofs.
FEW_STRIDES = {("basic", "v1.5", "A"), ("bottleneck", "v2", "B")}


@pytest.mark.parametrize(
    ("block", "version", "shortcut"),
    [
        pytest.param(*kind, marks=() if kind in FEW_STRIDES else pytest.mark.full)
        for kind in itertools.product(("basic", "bottleneck"), ("v1", "v1.5", "v2"), "AB")
    ],
)
def test_output_stride_takes_the_same_weights_and_computes_the_same_in_between(
    tmp_path: Path, block: str, version: str, shortcut: str
) -> None:
    """Every other position of the dilated network is a position of the strided one."""
    config = ResNetConfig(
        block, (2, 1, 2), (8, 8, 16), version=version, stem="cifar", shortcut=shortcut
    )
    model = build(config, include_top=False, input_shape=(29, 32, 3))
    randomize(model)
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 29, 32, 3), dtype=np.uint8)
    expected = model(images)
    for output_stride in (1, 2):
        dilated = build(
            config.replace(output_stride=output_stride),
            include_top=False,
            input_shape=(29, 32, 3),
            weights=tmp_path / "model.keras",
        )
        step = 4 // output_stride
        maps = np.asarray(dilated(images))
        assert maps.shape[1] == -(-29 // output_stride)
        np.testing.assert_allclose(maps[:, ::step, ::step], expected, rtol=1e-4, atol=1e-4)
        back = build(config, include_top=False, input_shape=(29, 32, 3))
        dilated.save(tmp_path / "dilated.keras")
        load_weights(back, tmp_path / "dilated.keras")
        np.testing.assert_array_equal(back(images), expected)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_plain_and_zero_padded_networks_do_not_take_each_others_weights(
    tmp_path: Path, version: str
) -> None:
    """Their weights have equal names and shapes."""
    plain, residual = (small("basic", version=version, shortcut=kind) for kind in (None, "A"))
    for saved, built, message in (
        (plain, residual, "it lacks conv2_block1_"),
        (residual, plain, "it also has conv2_block1_"),
    ):
        build(saved, input_shape=(16, 16, 3)).save(tmp_path / "model.keras")
        with pytest.raises(ValueError, match=message):
            build(built, input_shape=(16, 16, 3), weights=tmp_path / "model.keras")


def test_weights_come_from_inside_another_model_and_from_blurred_ones(tmp_path: Path) -> None:
    base = build(small(), include_top=False, pooling="avg", input_shape=(16, 16, 3))
    keras.Sequential([base, keras.layers.Dense(3)]).save(tmp_path / "nested.keras")
    copy = build(small(), include_top=False, pooling="avg", weights=tmp_path / "nested.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(copy(images), base(images))
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]).save(tmp_path / "none.keras")
    with pytest.raises(ValueError, match="one such model inside. Received: .* with 0 of them"):
        load_weights(copy, tmp_path / "none.keras")
    blurred = small(blur_pool=True)
    build(blurred.replace(output_stride=1), input_shape=(16, 16, 3)).save(tmp_path / "os1.keras")
    build(blurred, input_shape=(16, 16, 3), weights=tmp_path / "os1.keras")


def test_zero_init_residual_starts_with_identities() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for fields in ({}, {"version": "v2"}, {"norm": "group", "norm_groups": 4}):
        model = build(small(zero_init_residual=True, **fields), input_shape=(16, 16, 3))
        v2 = "version" in fields
        into, out = ("out", "out") if v2 else ("out", "add")
        block = keras.Model(
            model.input,
            [
                model.get_layer(f"conv2_block1_{into}").output,
                model.get_layer(f"conv2_block2_{out}").output,
            ],
        )
        before, after = block(images)
        np.testing.assert_array_equal(before, after)


def test_stochastic_depth_drops_whole_examples_and_scales_the_rest() -> None:
    config = small("basic", shortcut="A", stochastic_depth=0.5)
    model = build(config, input_shape=(8, 8, 3), include_top=False)
    drop = model.get_layer("conv3_block2_drop")
    keras.utils.set_random_seed(0)
    kept = np.asarray(drop(np.ones((400, 2, 2, 3), "float32"), training=True))
    assert set(np.unique(kept)) == {0.0, 2.0}
    assert (kept == kept[:, :1, :1, :1]).all()
    assert 0.4 < kept[:, 0, 0, 0].mean() / 2 < 0.6


def test_norms_have_the_papers_momentum_and_epsilon() -> None:
    for layer in keras_resnet.ResNet20().layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


@pytest.mark.filterwarnings("error")
def test_models_on_an_input_tensor_take_a_plain_array() -> None:
    tensor = keras.Input((16, 16, 3))
    model = build(small(), input_tensor=keras.layers.Identity()(tensor))
    assert model(np.zeros((1, 16, 16, 3), np.uint8)).shape == (1, 10)
    other = keras.Input((16, 16, 3))
    both = build(small(), input_tensor=keras.layers.Add()([tensor, other]))
    assert both([np.zeros((1, 16, 16, 3), "float32")] * 2).shape == (1, 10)


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_dtype_policies_leave_the_head_in_float32(policy: str) -> None:
    images = np.zeros((1, 16, 16, 3), np.uint8)
    for arguments in ({}, {"include_top": False, "pooling": "avg"}):
        model = build(small(), input_shape=(16, 16, 3), dtype=policy, **arguments)
        assert keras.backend.standardize_dtype(model(images).dtype) == "float32"


def test_weights_fit_whatever_surrounds_the_network(tmp_path: Path) -> None:
    model = build(small(), input_shape=(16, 16, 3))
    model.save(tmp_path / "model.keras")
    tensor = keras.layers.Identity(name="before")(keras.Input((24, 24, 3)))
    for keywords in ({"input_tensor": tensor}, {"include_preprocessing": False}):
        copy = build(small(), weights=tmp_path / "model.keras", **keywords)
        for mine, saved in zip(copy.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, saved)


def test_truncated_weights_are_refused_with_their_path(tmp_path: Path) -> None:
    build(small(), input_shape=(16, 16, 3)).save(tmp_path / "model.keras")
    content = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "half.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"readable `.keras` file. Received: .*half.keras"):
        build(small(), weights=tmp_path / "half.keras")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("basic A", "v2 with everything", "output stride"), id="few"),
        pytest.param((*CONFIGS, "output stride"), id="all", marks=pytest.mark.full),
    ],
)
def test_saved_models_load_without_this_package(
    names: tuple[str, ...], tmp_path: Path, run_new_python: Run
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    configs = {**CONFIGS, "output stride": small(output_stride=1)}
    for name in names:
        model = build(configs[name], input_shape=(32, 32, 3))
        randomize(model)
        model.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", model(images))
    code = """
import pathlib, sys
sys.modules["keras_resnet"] = None  # importing it now fails
import keras, numpy as np
folder = pathlib.Path(sys.argv[1])
paths = sorted(folder.glob("*.keras"))
for path in paths:
    model = keras.saving.load_model(path)
    np.testing.assert_allclose(model(np.load(folder / "images.npy")),
    np.load(path.with_suffix(".npy")), atol=1e-6)
print(len(paths))
"""
    done = run_new_python(code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(len(names))
