"""Configuration of input pipelines: source, splits, batches and augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from keras_resnet.images.protocol import DEFAULT_SIZE, EvalProtocol
from keras_resnet.support.checks import check_choice, check_integer, check_number, store_integers

Crop = Literal["inception", "he2015", "pad", "none"]
AutoAugment = Literal["none", "timm-randaugment", "trivialaugment-wide"]

#: Mean RGB colors of CIFAR-10 (datasets/cifar10.lua in facebookarchive/fb.resnet.torch) and of
#: ImageNet (torchvision and timm), rounded.
CIFAR_COLOR, IMAGENET_COLOR = (125, 123, 114), (124, 116, 104)


def _number(default: float, high: float = float("inf")) -> Any:
    """Return a dataclass field for a number from 0 to `high`."""
    return field(default=default, metadata={"high": high})


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images; none by default.

    The transforms are applied in the order of the fields. All random values of an image come from
    a seed of its own.

    Args:
        crop: how an image is cropped to the network's input size. `"inception"`: a random window
            with a share of the image's area in `area` and an aspect ratio in `aspect` is resized to
            the input size (Szegedy et al. 2015, section 6; torchvision's `RandomResizedCrop`).
            `"he2015"`: the short side is resized to a random length in `short_side`, then a random
            square of the input size is cropped (He et al. 2015, section 3.4). `"pad"`: the image is
            padded by `padding` pixels of the color `fill` and cropped back to its size at a random
            position (He et al. 2015, section 4.2). `"none"`: the crop of the evaluation protocol.
        area: for `"inception"`, smallest and largest share of the image's area, in (0, 1].
        aspect: for `"inception"`, smallest and largest ratio of width to height.
        short_side: for `"he2015"`, smallest and largest length in pixels for an input size of 224;
            other input sizes scale it in proportion.
        antialias: whether `"inception"` and `"he2015"` antialias when they shrink an image, as
            Pillow, torchvision and timm do. The code of the papers did not. Takes twice the time.
            JPEG files of at least twice the input size are always averaged, by their decoder.
        padding: for `"pad"`, pixels on each side.
        flip: probability of a horizontal flip.
        fill: color `(red, green, blue)`, each 0 to 255, of the padding of `"pad"` and of the area
            that `auto` leaves empty when it moves pixels.
        auto: `"timm-randaugment"`: timm's variant of RandAugment (Cubuk et al. 2020), whose
            operations get stronger with the magnitude (`inc1`) and interpolate bilinearly or
            bicubically at random. `"trivialaugment-wide"`: TrivialAugment (Müller and Hutter 2021)
            as in torchvision's training script, with bilinear interpolation.
        auto_layers: for `"timm-randaugment"`, number of operations drawn for an image.
        auto_magnitude: for `"timm-randaugment"`, mean magnitude of the operations, 0 to 10.
        auto_deviation: for `"timm-randaugment"`, standard deviation of the magnitudes (`mstd`).
        auto_probability: for `"timm-randaugment"`, probability of applying a drawn operation.
        auto_contrast: probability of stretching every channel to [0, 255].
        brightness: largest relative change; the factor is in [1 - brightness, 1 + brightness].
        contrast: largest relative change, as for `brightness`.
        saturation: largest relative change, as for `brightness`.
        hue: largest change of the hue, as a share of a full turn, at most 0.5.
        lighting: standard deviation of the noise along the principal components of the colors
            (Krizhevsky et al. 2012, section 4.1, which uses 0.1).
        erasing: probability of overwriting a rectangle with noise (Zhong et al. 2020).
        mixup: parameter of mixup's Beta distribution (Zhang et al. 2018); 0 turns mixup off.
        cutmix: parameter of CutMix's Beta distribution (Yun et al. 2019); 0 turns CutMix off. If
            both are on, each image uses one of them at random.
        repeats: number of consecutive, differently augmented copies of an image (Hoffer et al.
            2020). The number of images per epoch does not change, so each epoch shows fewer
            different ones.

    Raises:
        ValueError: a field is out of range.

    Examples:

    ```python
    augmentation = Augmentation(crop="inception", flip=0.5, mixup=0.2)
    ```
    """

    crop: Crop = "none"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    short_side: tuple[int, int] = (256, 480)
    antialias: bool = False
    padding: int = 4
    flip: float = _number(0.0, 1)
    fill: tuple[int, int, int] = (0, 0, 0)
    auto: AutoAugment = "none"
    auto_layers: int = 2
    auto_magnitude: float = _number(9.0, 10)
    auto_deviation: float = _number(0.0)
    auto_probability: float = _number(0.5, 1)
    auto_contrast: float = _number(0.0, 1)
    brightness: float = _number(0.0, 1)
    contrast: float = _number(0.0, 1)
    saturation: float = _number(0.0, 1)
    hue: float = _number(0.0, 0.5)
    lighting: float = _number(0.0)
    erasing: float = _number(0.0, 1)
    mixup: float = _number(0.0)
    cutmix: float = _number(0.0)
    repeats: int = 1

    def __post_init__(self) -> None:
        check_choice("crop", self.crop, get_args(Crop))
        check_choice("auto", self.auto, get_args(AutoAugment))
        for item in fields(self):
            if "high" in item.metadata:
                check_number(item.name, getattr(self, item.name), 0, item.metadata["high"])
        store_integers(self, ("auto_layers", "repeats"))
        store_integers(self, ("padding",), 0)
        for name, low, high in (
            ("area", 1e-6, 1),
            ("aspect", 1e-6, float("inf")),
            ("short_side", 224, float("inf")),
        ):
            pair = getattr(self, name)
            is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
            for value in pair if is_pair else ():
                check_number(name, value, low, high)
                if name == "short_side":
                    check_integer(name, value)
            if not is_pair or pair[0] > pair[1]:
                raise ValueError(
                    f"Expected `{name}` to be a pair (smallest, largest). Received: {pair!r}"
                )
            object.__setattr__(self, name, tuple(pair))

        fill = self.fill
        if not isinstance(fill, (tuple, list)) or len(fill) != 3:
            raise ValueError(
                f"Expected `fill` to be a color (red, green, blue). Received: {fill!r}"
            )
        for value in fill:
            check_number("fill", value, 0, 255)
        object.__setattr__(self, "fill", tuple(check_integer("fill", value, 0) for value in fill))

    @property
    def mixes(self) -> bool:
        """Return whether mixup or CutMix is on, which turn labels into shares of classes."""
        return self.mixup > 0 or self.cutmix > 0


#: The augmentations of the papers, by name. He et al. 2015 changes colors as Krizhevsky et al. 2012
#: do (`lighting`); the further color changes of fb.resnet.torch are not in the paper. The paper
#: pads after subtracting the mean, so its padding has the mean color.
AUGMENTATIONS = {
    "none": Augmentation(),
    "cifar": Augmentation(crop="pad", flip=0.5, fill=CIFAR_COLOR),
    "he2015": Augmentation(crop="he2015", flip=0.5, lighting=0.1),
    "inception": Augmentation(crop="inception", flip=0.5),
}


def check_fraction(name: str, value: Any) -> None:
    """Raise ValueError if `value` is not a number above 0 and below 1."""
    check_number(name, value, 0, 1)
    if value in (0, 1):
        raise ValueError(f"Expected `{name}` to be between 0 and 1. Received: {value!r}")


@dataclass(frozen=True)
class DataConfig:
    """Configuration of an input pipeline: a source of images and how they become batches.

    `DataConfig(**dataclasses.asdict(config))` is equal to `config`.

    Args:
        source: where the images come from, such as `"folder:PATH"`; see `load_data`.
        size: height and width of the network's input, in pixels.
        batch_size: images per optimizer step, over all workers and replicas.
        augmentation: an `Augmentation` of the training images, or its name in `AUGMENTATIONS`.
        protocol: how images are resized and cropped for evaluation; by default the center crop of
            87.5 % of the short side, or the whole short side if `size` is at most 64. For published
            weights, pass their protocol: `get_info(model).protocol`.
        seed: seed of the order of the images and of the augmentation.
        validation_fraction: share of the training split used for validation if the source has no
            validation split; above 0 and below 1.
        split_seed: seed of the choice of these images.
        max_bad_fraction: share of the images that may be unreadable in training and evaluation,
            0 to 1.
        drop_remainder: whether the last batch of an epoch is dropped if it is not full. Several
            workers or replicas always drop it.
        shuffle_block: number of consecutive records of a TFRecord file that stay near each other
            when shuffled, for disks that are slow at random access; 1 shuffles every record.

    Raises:
        ValueError: a field is out of range.

    Examples:

    ```python
    config = DataConfig("folder:flowers", size=224, batch_size=64, augmentation="inception")
    ```
    """

    source: str
    size: int = DEFAULT_SIZE
    batch_size: int = 256
    augmentation: Augmentation = field(default_factory=Augmentation)
    protocol: EvalProtocol | None = None
    seed: int = 0
    validation_fraction: float = 0.1
    split_seed: int = 0
    max_bad_fraction: float = 0.01
    drop_remainder: bool = False
    shuffle_block: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.source, str):
            raise ValueError(f"Expected `source` to be a string. Received: {self.source!r}")
        augmentation: Any = self.augmentation
        if isinstance(augmentation, str):
            augmentation = AUGMENTATIONS.get(augmentation)
        elif isinstance(augmentation, Mapping):
            augmentation = Augmentation(**augmentation)
        if not isinstance(augmentation, Augmentation):
            raise ValueError(
                f"Expected `augmentation` to be one of {tuple(AUGMENTATIONS)} or an "
                f"`Augmentation`. Received: {self.augmentation!r}"
            )
        object.__setattr__(self, "augmentation", augmentation)
        if isinstance(self.protocol, Mapping):
            object.__setattr__(self, "protocol", EvalProtocol(**self.protocol))
        if not isinstance(self.protocol, (EvalProtocol, type(None))):
            raise ValueError(
                f"Expected `protocol` to be an `EvalProtocol`. Received: {self.protocol!r}"
            )
        store_integers(self, ("size", "batch_size", "shuffle_block"))
        store_integers(self, ("seed", "split_seed"), 0)
        check_number("max_bad_fraction", self.max_bad_fraction, 0, 1)
        check_fraction("validation_fraction", self.validation_fraction)
        if self.protocol is not None and self.protocol.size != self.size:
            raise ValueError(
                "Expected `protocol.size` to be equal to `size`. "
                f"Received: {self.protocol}, size={self.size}"
            )

    @property
    def eval_protocol(self) -> EvalProtocol:
        """`protocol`, or the default protocol for `size`."""
        return self.protocol or EvalProtocol.of_size(self.size)
