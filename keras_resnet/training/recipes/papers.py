"""Training recipes of papers.

Each citation is followed by the fields that it covers. `owner/repository@commit` is on GitHub.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from keras_resnet.data.config import CIFAR_COLOR, Augmentation
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.training.recipes.parts import OptimizerConfig, ScheduleConfig, VariableKind
from keras_resnet.training.recipes.recipe import Recipe


def cited(whole: str, fields: Mapping[str, str]) -> dict[str, str]:
    """`Recipe.citations`, from citations.

    Args:
        whole: citation of the recipe as a whole.
        fields: citation -> the fields that it covers, separated by spaces.
    """
    return {"": whole, **{name: text for text, names in fields.items() for name in names.split()}}


#: The fields of a protocol, separated by spaces.
PROTOCOL = "protocol.size protocol.resize protocol.interpolation"

_HE2015 = "He et al. 2015 (arXiv:1512.03385)"
_HE2016 = "He et al. 2016 (arXiv:1603.05027)"
_GOYAL = "Goyal et al. 2017 (arXiv:1706.02677)"
_CAFFE = "KaimingHe/deep-residual-networks@a7026cb6 README.md"
_LUA = "facebookarchive/fb.resnet.torch@985e569d"
_RELEASED = (
    "KaimingHe/resnet-1k-layers@fde7ee93, the released code, is made from "
    "facebookarchive/fb.resnet.torch@985e569d"
)
_PADDED_WITH_MEAN = (
    f"{_HE2015}, section 4.2, pads with zeros after subtracting the mean of each pixel; here, with "
    f"the mean color of CIFAR-10 from {_LUA} datasets/cifar10.lua"
)
_TORCH_MOMENTUM = (
    f"{_RELEASED} and uses torch's momentum; its README.md says that the paper's experiments were "
    "run in Caffe, with similar results"
)
#: All kinds of variables, for `optimizer.decay_on`.
ALL: tuple[VariableKind, ...] = ("kernels", "biases", "norms")
_KERNELS_ONLY = (
    f"{_LUA} README.md says that the paper decays the weights of the convolutions only; our "
    "assumption: the kernel of the classifier decays as well"
)

_HE2015_IMAGENET = Recipe(
    "he2015-imagenet",
    duration=600_000,
    unit="steps",
    batch_size=256,
    optimizer=OptimizerConfig(learning_rate=0.1, weight_decay=1e-4),
    schedule=ScheduleConfig("plateau"),
    augmentation=Augmentation(crop="he2015", flip=0.5, lighting=0.1),
    protocol=EvalProtocol(224, 256),
    precise_bn=200,
    network={"version": "v1"},
    citations=cited(
        f"{_HE2015}, section 3.4. The paper subtracts the mean of each pixel; the networks of this "
        "package normalize by channel",
        {
            f"{_HE2015}, section 3.4": "unit batch_size optimizer.learning_rate schedule.name "
            "optimizer.momentum optimizer.weight_decay schedule.factor augmentation.crop "
            "augmentation.short_side augmentation.flip",
            f"{_HE2015}, section 3.4: up to 60 x 10^4 iterations, 119.9 epochs": "duration",
            "our assumption: the paper does not define a plateau": "schedule.patience "
            "schedule.threshold",
            _KERNELS_ONLY: "optimizer.decay_on",
            f"{_HE2015}, section 3.4, uses the color augmentation of Krizhevsky et al. 2012, with "
            f"their standard deviation, as in {_LUA} datasets/imagenet.lua": (
                "augmentation.lighting"
            ),
            f"{_CAFFE}: one crop; the paper compares ten crops": PROTOCOL,
            f"{_CAFFE}: statistics of a large batch after training; our assumption: of 200 "
            "batches": "precise_bn",
            f"{_CAFFE}: its networks have the stride in the first 1x1 convolution": (
                "network.version"
            ),
            f"{_CAFFE}, one crop": "expected",
        },
    ),
    expected={"resnet50": 75.3, "resnet101": 76.4, "resnet152": 77.0},
)

_HE2015_CIFAR10 = Recipe(
    "he2015-cifar10",
    duration=64_000,
    unit="steps",
    batch_size=128,
    optimizer=OptimizerConfig(learning_rate=0.1, weight_decay=1e-4),
    schedule=ScheduleConfig("multi-step", unit="steps", milestones=(32_000, 48_000)),
    augmentation=Augmentation(crop="pad", padding=4, flip=0.5, fill=CIFAR_COLOR),
    citations=cited(
        f"{_HE2015}, section 4.2. The paper subtracts the mean of each pixel; the networks of this "
        "package normalize by channel",
        {
            f"{_HE2015}, section 4.2": "unit batch_size optimizer.learning_rate optimizer.momentum "
            "optimizer.weight_decay schedule.name schedule.unit schedule.milestones "
            "schedule.factor augmentation.crop augmentation.padding augmentation.flip",
            _PADDED_WITH_MEAN: "augmentation.fill",
            f"{_HE2015}, section 4.2: 182 epochs of 45,000 images, 164 of 50,000": "duration",
            _KERNELS_ONLY: "optimizer.decay_on",
            f"{_HE2015}, Table 6, on the test images": "expected",
        },
    ),
    expected={"resnet20": 91.25, "resnet32": 92.49, "resnet44": 92.83, "resnet56": 93.03},
)

_HE2015_CIFAR10_110 = dataclasses.replace(
    _HE2015_CIFAR10,
    name="he2015-cifar10-110",
    schedule=dataclasses.replace(_HE2015_CIFAR10.schedule, low_until_error=0.8, low_factor=0.1),
    citations={
        **_HE2015_CIFAR10.citations,
        **dict.fromkeys(
            ("schedule.low_until_error", "schedule.low_factor"),
            f"{_HE2015}, section 4.2, for 110 layers: 0.01 until the training error is below 80 %, "
            "about 400 iterations",
        ),
        "expected": f"{_HE2015}, Table 6: for 110 layers, the mean of five runs, ±0.16 (the best "
        "is 93.57); 1202 layers are trained in the same way",
    },
    expected={"resnet110": 93.39, "resnet1202": 92.07},
)

_HE2016_CIFAR = dataclasses.replace(
    _HE2015_CIFAR10,
    name="he2016-cifar",
    optimizer=OptimizerConfig(learning_rate=0.1, form="torch", weight_decay=1e-4, decay_on=ALL),
    schedule=ScheduleConfig(
        "piecewise-linear",
        unit="steps",
        points=(
            *((0, 0.1), (399, 0.1)),
            *((400, 1), (31_999, 1)),
            *((32_000, 0.1), (47_999, 0.1), (48_000, 0.01)),
        ),
    ),
    citations=cited(
        f"{_HE2016}, appendix, which follows {_HE2015}, section 4.2",
        {
            f"{_HE2016}, appendix": "unit batch_size optimizer.learning_rate optimizer.momentum "
            "optimizer.weight_decay schedule.unit augmentation.crop augmentation.padding "
            "augmentation.flip",
            f"{_HE2016}, appendix, as {_HE2015}, section 4.2; the released code, "
            "KaimingHe/resnet-1k-layers@fde7ee93, uses 200 epochs and batches of 64": "duration",
            f"{_HE2016}, appendix: 0.01 for 400 steps in every experiment on CIFAR, then divided "
            "by 10 at 32,000 and 48,000 steps; here, lines between adjacent steps": "schedule.name "
            "schedule.points",
            _PADDED_WITH_MEAN: "augmentation.fill",
            _TORCH_MOMENTUM: "optimizer.form",
            f"{_RELEASED}, which decays every parameter": "optimizer.decay_on",
            f"{_HE2016}, Tables 2 to 4, CIFAR-10, batches of 128": "expected",
        },
    ),
    expected={"resnet110v2": 93.63, "resnet164v2": 94.54, "resnet1001v2": 95.08},
)

_HE2016_IMAGENET = Recipe(
    "he2016-imagenet",
    duration=90,
    batch_size=256,
    optimizer=OptimizerConfig(learning_rate=0.1, form="torch", weight_decay=1e-4, decay_on=ALL),
    schedule=ScheduleConfig("multi-step", milestones=(30, 60)),
    augmentation=Augmentation(crop="he2015", flip=0.5, lighting=0.1),
    train_size=224,
    protocol=EvalProtocol(320, 320),
    citations=cited(
        f"{_HE2016}, appendix, with the scale augmentation of {_HE2015}, section 3.4",
        {
            f"our assumption: as in {_LUA} opts.lua; not verified": "duration",
            _TORCH_MOMENTUM: "optimizer.form",
            f"{_HE2016}, appendix": "batch_size optimizer.learning_rate optimizer.momentum "
            "optimizer.weight_decay schedule.name schedule.milestones schedule.factor train_size",
            f"{_RELEASED}, which decays every parameter": "optimizer.decay_on",
            f"{_HE2015}, section 3.4": "augmentation.crop augmentation.short_side "
            "augmentation.flip augmentation.lighting",
            f"{_HE2016}, Table 5: one crop of 320 pixels, short side 320": PROTOCOL,
            f"{_HE2016}, Table 5, with scale augmentation": "expected",
        },
    ),
    expected={"resnet152v2": 78.9, "resnet200v2": 79.3},
)

_GOYAL2017 = Recipe(
    "goyal2017",
    duration=90,
    batch_size=8192,
    optimizer=OptimizerConfig(
        learning_rate=0.1,
        reference_batch_size=256,
        nesterov=True,
        form="torch",
        weight_decay=1e-4,
        decay_on=("kernels", "biases"),
    ),
    schedule=ScheduleConfig(
        "multi-step", warmup=5, warmup_from="unscaled", milestones=(30, 60, 80)
    ),
    augmentation=Augmentation(crop="inception", flip=0.5),
    protocol=EvalProtocol(224, 256),
    network={"zero_init_residual": True},
    citations=cited(
        f"{_GOYAL}. The paper computes the statistics of BN over 32 images and initializes the "
        "classifier from N(0, 0.01^2); neither is part of a recipe",
        {
            f"{_GOYAL}, section 5.1": "duration optimizer.momentum optimizer.weight_decay "
            "schedule.name schedule.milestones schedule.factor augmentation.flip "
            "network.zero_init_residual",
            f"{_GOYAL}, section 5.1, as in {_LUA} datasets/transforms.lua, with aspect ratios from "
            "9/16 to 16/9 and bicubic interpolation; here, 3/4 to 4/3 and bilinear": (
                "augmentation.crop"
            ),
            f"{_GOYAL}, section 5.1; plain momentum works equally well": "optimizer.nesterov",
            f"{_GOYAL}, section 5.1: not on the scales and shifts of BN": "optimizer.decay_on",
            f"{_GOYAL}, section 2.1": "optimizer.learning_rate optimizer.reference_batch_size",
            f"{_GOYAL}, section 3: equation 9, or equation 10 with momentum correction": (
                "optimizer.form"
            ),
            f"{_GOYAL}, section 2.2": "schedule.warmup schedule.warmup_from",
            f"{_GOYAL}, section 5: 256 workers of 32 images": "batch_size",
            f"{_GOYAL}, section 5.1; our assumption: a short side of 256": PROTOCOL,
            f"{_GOYAL}, Tables 1 and 2: the mean of five runs, ±0.09": "expected",
        },
    ),
    expected={"resnet50": 76.26, "resnet101": 77.64},
)

#: All recipes of this module, in the order of the table.
PAPERS = (
    _HE2015_IMAGENET,
    _HE2015_CIFAR10,
    _HE2015_CIFAR10_110,
    _HE2016_CIFAR,
    _HE2016_IMAGENET,
    _GOYAL2017,
)
