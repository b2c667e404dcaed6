"""Configuration of data sets: the source, the splits, the batches and the augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from keras_resnet.images.protocol import DEFAULT_SIZE, EvalProtocol
from keras_resnet.support.checks import check_choice, check_integer, check_number, store_integers

Crop = Literal["inception", "he2015", "pad", "none"]
AutoAugment = Literal["none", "timm-randaugment", "trivialaugment-wide"]

#: Mean colours, RGB, of CIFAR-10 (datasets/cifar10.lua of facebookarchive/fb.resnet.torch) and of
#: ImageNet (torchvision's and timm's), rounded.
CIFAR_COLOUR, IMAGENET_COLOUR = (125, 123, 114), (124, 116, 104)


def _number(default: float, high: float = float("inf")) -> Any:
    """A field that is a number from 0 to `high`."""
    return field(default=default, metadata={"high": high})


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images. By default, there is none.

    Applied in the order of the fields. Every value is drawn for each image from its own seed.

    Args:
        crop: what is cut out of an image and resized to the network's size. `"inception"`: 8 to
            100 % of the area, with an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015, section 6,
            as torchvision's `RandomResizedCrop`). `"he2015"`: the short side is resized to
            `short_side` pixels, and a square is cut out (He et al. 2015, section 3.4). `"pad"`: the
            image, with `padding` pixels of the colour `fill` around it, is cropped back to its size
            (section 4.2). `"none"`: what evaluation takes.
        area: least and greatest share of the area, of `"inception"`.
        aspect: least and greatest width over height, of `"inception"`.
        short_side: least and greatest length, of `"he2015"`, at a network's size of 224; in
            proportion at others.
        antialias: whether pixels are averaged where `"inception"` and `"he2015"` shrink an image,
            as Pillow, and so torchvision and timm, do. The papers' own code did not, and it takes
            twice the time. JPEGs of at least twice the size are averaged by their decoder anyway.
        padding: of `"pad"`, in pixels.
        flip: probability of a horizontal flip.
        fill: red, green and blue, 0 to 255, of what `"pad"` puts around an image, and of where
            `auto` moves it away.
        auto: `"timm-randaugment"`: timm's variant of RandAugment (Cubuk et al. 2020), with
            operations that grow with the magnitude (`inc1`) and are interpolated bilinearly or
            bicubically at random. `"trivialaugment-wide"`: TrivialAugment (Müller and Hutter 2021)
            as in torchvision's training script, with bilinear interpolation.
        auto_layers: operations that are drawn for an image, of `"timm-randaugment"`.
        auto_magnitude: mean of their magnitudes, 0 to 10, of `"timm-randaugment"`.
        auto_deviation: standard deviation of the magnitudes, of `"timm-randaugment"` (`mstd`).
        auto_probability: of applying an operation that is drawn, of `"timm-randaugment"`.
        auto_contrast: probability of stretching every channel to [0, 255].
        brightness: greatest relative change; the factor is in [1 - brightness, 1 + brightness].
        contrast: likewise.
        saturation: likewise.
        hue: greatest change of the hue, in turns, at most 0.5.
        lighting: standard deviation of noise along the principal colours (Krizhevsky et al. 2012,
            section 4.1), 0.1 there.
        erasing: probability of overwriting a rectangle with noise (Zhong et al. 2020).
        mixup: parameter of the Beta distribution (Zhang et al. 2018); 0 for none.
        cutmix: the same (Yun et al. 2019). With both, each image draws which.
        repeats: how many differently augmented copies of an image stand side by side (Hoffer et al.
            2020); an epoch still shows as many images as there are, and so fewer different ones.

    Raises:
        ValueError: a field is out of range.
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
        for own in fields(self):
            if "high" in own.metadata:
                check_number(own.name, getattr(self, own.name), 0, own.metadata["high"])
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
                    f"Expected `{name}` to be a least and a greatest value. Received: {pair!r}"
                )
            object.__setattr__(self, name, tuple(pair))

        fill = self.fill
        if not isinstance(fill, (tuple, list)) or len(fill) != 3:
            raise ValueError(f"Expected `fill` to be red, green and blue. Received: {fill!r}")
        for value in fill:
            check_number("fill", value, 0, 255)
        object.__setattr__(self, "fill", tuple(check_integer("fill", value, 0) for value in fill))

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other, so that labels become shares of classes."""
        return self.mixup > 0 or self.cutmix > 0


#: The papers' augmentations. `lighting` and colour changes of fb.resnet.torch are not in He et al.
#: 2015, which takes Krizhevsky's. Padding follows the subtraction of the mean there.
AUGMENTATIONS = {
    "none": Augmentation(),
    "cifar": Augmentation(crop="pad", flip=0.5, fill=CIFAR_COLOUR),
    "he2015": Augmentation(crop="he2015", flip=0.5, lighting=0.1),
    "inception": Augmentation(crop="inception", flip=0.5),
}


def check_fraction(name: str, value: Any) -> None:
    """Raises ValueError if `value` is no number above 0 and below 1."""
    check_number(name, value, 0, 1)
    if value in (0, 1):
        raise ValueError(f"Expected `{name}` to be between 0 and 1. Received: {value!r}")


@dataclass(frozen=True)
class DataConfig:
    """A source of images and how they become batches; `DataConfig(**asdict(config))` equals it.

    Args:
        source: a data set, such as `folder:PATH`; see `load_data`.
        size: height and width of the images that the network gets.
        batch_size: images per optimizer step, over all workers and replicas.
        augmentation: of training images; or a name in `AUGMENTATIONS`.
        protocol: how images are prepared for evaluation; by default the centre crop of 87.5 % of
            the short side, and all of it where `size` is 64 or less. For published weights, pass
            theirs: `get_info(model).protocol`.
        seed: of order and augmentation.
        validation_fraction: of the images of a source that has no validation part.
        split_seed: which ones those are.
        max_bad_fraction: of unreadable images that training and evaluation put up with.
        drop_remainder: whether the last batch of an epoch is left out if it is not full. Always so
            with several workers.
        shuffle_block: so many neighbours in a TFRecord file are read soon after each other, for
            disks that are slow at random reads; 1 shuffles perfectly.

    Raises:
        ValueError: a field is out of range.
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
                "Expected a `protocol` that gives images of `size`. "
                f"Received: {self.protocol}, size={self.size}"
            )

    @property
    def eval_protocol(self) -> EvalProtocol:
        """`protocol`, or what stands for it."""
        return self.protocol or EvalProtocol.of_size(self.size)
