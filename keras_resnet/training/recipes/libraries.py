"""Training recipes of libraries.

Each citation is followed by the fields that it covers. `owner/repository@commit` is on GitHub.
"""

from __future__ import annotations

import dataclasses

from keras_resnet.data.config import IMAGENET_COLOR, Augmentation
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.training.recipes.papers import ALL, PROTOCOL, cited
from keras_resnet.training.recipes.parts import (
    AverageConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from keras_resnet.training.recipes.recipe import Recipe

_NVIDIA = (
    "NVIDIA/DeepLearningExamples@729963dd PyTorch/Classification/ConvNets/resnet50v1.5/README.md"
)
_TPU = "tensorflow/tpu models/official/resnet:"
_MMPRETRAIN = "open-mmlab/mmpretrain"

_NVIDIA_RN50 = Recipe(
    "nvidia-rn50v15",
    duration=90,
    batch_size=2048,
    optimizer=OptimizerConfig(
        learning_rate=0.256,
        reference_batch_size=256,
        momentum=0.875,
        form="torch",
        weight_decay=1 / 32768,
        decay_on=("kernels", "biases"),
    ),
    schedule=ScheduleConfig("cosine", warmup=8),
    loss=LossConfig(label_smoothing=0.1),
    augmentation=Augmentation(crop="inception", flip=0.5),
    protocol=EvalProtocol(224, 256),
    citations=cited(
        f"{_NVIDIA} and configs.yml, which also have recipes of 50 and 250 epochs (with mixup 0.2)",
        {
            _NVIDIA: "duration batch_size optimizer.learning_rate optimizer.reference_batch_size "
            "optimizer.momentum loss.label_smoothing augmentation.crop augmentation.flip "
            f"{PROTOCOL}",
            f"{_NVIDIA}: torch.optim.SGD": "optimizer.form",
            f"{_NVIDIA}, for batches of 2048 and more; 2^-14 for 1024": "optimizer.weight_decay",
            f"{_NVIDIA}, and image_classification/optimizers.py@4f2c6922: not on BN, so the "
            "bias of the classifier decays": "optimizer.decay_on",
            f"{_NVIDIA}, which changes the rate once per epoch; here, at every step": (
                "schedule.name"
            ),
            f"{_NVIDIA}, in steps of an eighth of the peak per epoch; the scripts of the "
            "TensorFlow variant also have 8, but its README 5": "schedule.warmup",
            f"{_NVIDIA}: 90 epochs on A100, AMP, ±0.11 (V100: 76.88)": "expected",
        },
    ),
    expected={"resnet50": 77.12},
)

_VISION_SCRIPT = "pytorch/vision@017e9b99 references/classification/train.py"

_TORCHVISION_V1 = Recipe(
    "torchvision-v1",
    duration=90,
    batch_size=256,
    optimizer=OptimizerConfig(learning_rate=0.1, form="torch", weight_decay=1e-4, decay_on=ALL),
    schedule=ScheduleConfig("step", every=30),
    augmentation=Augmentation(crop="inception", flip=0.5, antialias=True),
    protocol=EvalProtocol(224, 256),
    citations=cited(
        "torchvision's weights IMAGENET1K_V1; ResNeXt was trained for 100 epochs "
        "(pytorch/vision@212ff516 references/classification/README.md)",
        {
            "pytorch/vision references/classification/train.py: torch.optim.SGD": "optimizer.form",
            "pytorch/vision references/classification/README.md, read in a fork: 8 GPUs with 32 "
            "images each": "duration batch_size optimizer.learning_rate optimizer.momentum "
            "optimizer.weight_decay schedule.name schedule.every schedule.factor",
            f"{_VISION_SCRIPT}: all parameters in one group": "optimizer.decay_on",
            f"{_VISION_SCRIPT}: RandomResizedCrop and flip": "augmentation.crop augmentation.flip",
            "torchvision resizes with Pillow": "augmentation.antialias",
            f"{_VISION_SCRIPT}, and torchvision 0.28.0 Weights.meta": PROTOCOL,
            "torchvision 0.28.0 Weights.meta": "expected",
        },
    ),
    expected={
        "resnet18": 69.758,
        "resnet34": 73.314,
        "resnet50": 76.13,
        "resnet101": 77.374,
        "resnet152": 78.312,
    },
)

_TORCHVISION_V2 = Recipe(
    "torchvision-v2",
    duration=600,
    batch_size=1024,
    optimizer=OptimizerConfig(
        learning_rate=0.5, form="torch", weight_decay=2e-5, decay_on=("kernels", "biases")
    ),
    schedule=ScheduleConfig("cosine", warmup=5, warmup_from=0.01),
    loss=LossConfig(label_smoothing=0.1),
    augmentation=Augmentation(
        crop="inception",
        flip=0.5,
        antialias=True,
        auto="trivialaugment-wide",
        erasing=0.1,
        mixup=0.2,
        cutmix=1.0,
        repeats=4,
    ),
    train_size=176,
    protocol=EvalProtocol(224, 232),
    average=AverageConfig(decay=1 - 2e-5 * 1024 * 32 / 600, every=32),
    citations=cited(
        "torchvision's weights IMAGENET1K_V2 of ResNet-50: the command is in pytorch/vision PR "
        f"6433, the defaults are in {_VISION_SCRIPT}",
        {
            "pytorch/vision PR 6433": "duration optimizer.learning_rate optimizer.weight_decay "
            "schedule.warmup loss.label_smoothing augmentation.repeats train_size",
            "pytorch/vision PR 6433, which changes the rate once per epoch; here, at every step": (
                "schedule.name"
            ),
            "pytorch/vision PR 6433 (--auto-augment ta_wide) and references/classification/"
            "presets.py: bilinear": "augmentation.auto",
            "the default of torchvision's TrivialAugmentWide: black": "augmentation.fill",
            "pytorch/vision PR 6433: 8 GPUs with 128 images each": "batch_size",
            "pytorch/vision PR 6433: --norm-weight-decay 0": "optimizer.decay_on",
            f"{_VISION_SCRIPT}: torch.optim.SGD": "optimizer.form",
            f"{_VISION_SCRIPT}: the default": "optimizer.momentum schedule.warmup_from "
            "augmentation.crop augmentation.flip",
            "torchvision resizes with Pillow": "augmentation.antialias",
            "pytorch/vision PR 6433, which fills rectangles of aspect ratios from 0.3 to 3.3 with "
            "the mean color; here, from 0.3 to 1 / 0.3, with noise": "augmentation.erasing",
            "pytorch/vision PR 6433, which chooses one of the two per batch; here, per image": (
                "augmentation.mixup augmentation.cutmix"
            ),
            "pytorch/vision PR 6433 (--val-resize-size 232)": PROTOCOL,
            f"{_VISION_SCRIPT}: 1 - min(1, (1 - 0.99998) * batch size * every / epochs). Set it "
            "again for another batch size or duration. There, the average is a copy of the weights "
            "during the warm-up; here, it is not": "average.decay",
            f"{_VISION_SCRIPT}: the default of --model-ema-steps": "average.every",
            "torchvision 0.28.0 Weights.meta; 80.674 without repeated augmentation": "expected",
        },
    ),
    expected={"resnet50": 80.858},
)

_RSB_SCHEDULE = f"{_MMPRETRAIN}@24bcf069 configs/_base_/schedules/imagenet_bs2048_rsb.py"
_RSB_DATA = f"{_MMPRETRAIN}@2c53b79f configs/_base_/datasets/imagenet_bs256_rsb_a12.py"
_RSB_THRESHOLD = (
    "Alibaba-MIIL/ML_Decoder@12a67d98 README.md, a command of timm for A2; for A1 and A3, our "
    "assumption. Applied after label smoothing, as in timm"
)

_TIMM = "huggingface/pytorch-image-models, timm 1.0.27:"
_TIMM_SCRIPT = "huggingface/pytorch-image-models@004fb5f8 train.py"
_DEVIATION = ", standard deviation 0.5, with timm's operations that increase with the magnitude"
_AUTO = (
    "augmentation.auto augmentation.auto_layers augmentation.auto_magnitude "
    "augmentation.auto_deviation"
)
_BY_BATCH = "; timm draws one method and strength per batch; here, each image draws its own"

_RSB_A2 = Recipe(
    "rsb-a2",
    duration=300,
    batch_size=2048,
    optimizer=OptimizerConfig("lamb", learning_rate=5e-3, weight_decay=0.02, decay="decoupled"),
    schedule=ScheduleConfig(
        "cosine", warmup=5, warmup_from=1e-4, counts_warmup=True, end=1e-6 / 5e-3
    ),
    loss=LossConfig("binary-cross-entropy", target_threshold=0.2),
    augmentation=Augmentation(
        crop="inception",
        flip=0.5,
        antialias=True,
        fill=IMAGENET_COLOR,
        auto="timm-randaugment",
        auto_magnitude=7,
        auto_deviation=0.5,
        mixup=0.1,
        cutmix=1.0,
        repeats=3,
    ),
    protocol=EvalProtocol.from_crop_pct(224, 0.95, "bicubic"),
    network={"stochastic_depth": 0.05, "zero_init_residual": True},
    citations=cited(
        "Wightman et al. 2021 (arXiv:2110.00476), procedure A2; not verified in the paper itself: "
        f"the values are from {_MMPRETRAIN}@548db6f4 configs/resnet/"
        "resnet50_8xb256-rsb-a2-300e_in1k.py and Li et al. 2024, Table A3, which agree",
        {
            f"{_MMPRETRAIN}@548db6f4 and Li et al. 2024, Table A3": "duration loss.name "
            "network.stochastic_depth",
            f"{_MMPRETRAIN}@548db6f4 and Li et al. 2024, Table A3{_BY_BATCH}": "augmentation.mixup "
            "augmentation.cutmix",
            f"{_RSB_SCHEDULE} and Li et al. 2024, Table A3": "batch_size optimizer.name "
            "optimizer.learning_rate optimizer.weight_decay schedule.warmup",
            f"{_RSB_SCHEDULE} and Li et al. 2024, Table A3; timm changes the rate once per epoch; "
            "here, at every step": "schedule.name",
            "Li et al. 2024, Table A3: not clipped; timm's LAMB clips the global gradient norm to "
            "1 by default": "optimizer.clip_norm",
            f"{_TIMM} timm/scheduler/cosine_lr.py, where warmup_prefix is off by default; but in "
            f"{_RSB_SCHEDULE} the cosine begins after the warm-up": "schedule.counts_warmup",
            f"{_TIMM} timm/models/resnet.py: zero_init_last": "network.zero_init_residual",
            "You et al. 2020 (arXiv:1904.00962), Algorithm 2: included in the trust ratio": (
                "optimizer.decay"
            ),
            f"{_MMPRETRAIN}@548db6f4: not on biases and BN, as by default in timm": (
                "optimizer.decay_on"
            ),
            f"{_RSB_SCHEDULE}; but the default of timm, {_TIMM_SCRIPT}, is a rate of 1e-4": (
                "schedule.warmup_from"
            ),
            f"{_RSB_SCHEDULE}, and the default of timm, {_TIMM_SCRIPT}": "schedule.end",
            _RSB_THRESHOLD: "loss.target_threshold",
            f"{_RSB_DATA}": "augmentation.flip",
            f"{_RSB_DATA}, with bicubic interpolation; the default of timm, {_TIMM_SCRIPT}, draws "
            "bilinear or bicubic; here, bilinear": "augmentation.crop",
            f"{_TIMM} timm/data/auto_augment.py: the default": "augmentation.auto_probability",
            f"{_TIMM} timm/data/transforms_factory.py: ImageNet's mean": "augmentation.fill",
            "timm resizes with Pillow": "augmentation.antialias",
            f"{_RSB_DATA} and Li et al. 2024, Table A3: 7{_DEVIATION}": _AUTO,
            f"{_MMPRETRAIN}@548db6f4: repeated; 3 in the command of timm for A2 in "
            "Alibaba-MIIL/ML_Decoder@12a67d98 README.md. There, copies go to different GPUs; here, "
            "they are adjacent in a batch": "augmentation.repeats",
            "huggingface/pytorch-image-models@aa4b5850 results/results-imagenet.csv": (
                f"expected {PROTOCOL}"
            ),
        },
    ),
    expected={"resnet50": 79.828},
)

_A1_CONFIG = f"{_MMPRETRAIN}@9fe593e3 configs/resnet/resnet50_8xb256-rsb-a1-600e_in1k.py"
_A1_ONLY = f"{_A1_CONFIG}, the only source"
_A3_CONFIG = f"{_MMPRETRAIN}@14ced91f configs/resnet/resnet50_8xb256-rsb-a3-100e_in1k.py"
_A3_BOTH = f"{_A3_CONFIG} and Li et al. 2024, Table A3"

_RSB_A1 = dataclasses.replace(
    _RSB_A2,
    name="rsb-a1",
    duration=600,
    optimizer=dataclasses.replace(_RSB_A2.optimizer, weight_decay=0.01),
    loss=dataclasses.replace(_RSB_A2.loss, label_smoothing=0.1),
    augmentation=dataclasses.replace(_RSB_A2.augmentation, mixup=0.2),
    citations=dict(_RSB_A2.citations)
    | cited(
        "Wightman et al. 2021 (arXiv:2110.00476), procedure A1; not verified in the paper itself: "
        f"the values are from {_A1_CONFIG}",
        {
            _A1_ONLY: "duration optimizer.weight_decay loss.name network.stochastic_depth",
            f"{_A1_ONLY}{_BY_BATCH}": "augmentation.mixup augmentation.cutmix",
            _RSB_SCHEDULE: "batch_size optimizer.name optimizer.learning_rate schedule.warmup",
            f"{_RSB_SCHEDULE}; timm changes the rate once per epoch; here, at every step": (
                "schedule.name"
            ),
            "our assumption: not clipped, as for A2; timm's LAMB clips the global gradient norm to "
            "1 by default": "optimizer.clip_norm",
            f"{_RSB_DATA}: 7{_DEVIATION}": _AUTO,
            f"{_A1_CONFIG}: not on biases and BN, as by default in timm": "optimizer.decay_on",
            f"{_A1_CONFIG}: repeated; our assumption: 3, as for A2. There, copies go to different "
            "GPUs; here, they are adjacent in a batch": "augmentation.repeats",
            f"{_A1_ONLY}; without effect, because of `loss.target_threshold`": (
                "loss.label_smoothing"
            ),
        },
    ),
    expected={"resnet50": 80.382},
)

_RSB_A3 = dataclasses.replace(
    _RSB_A2,
    name="rsb-a3",
    duration=100,
    optimizer=dataclasses.replace(_RSB_A2.optimizer, learning_rate=8e-3),
    schedule=dataclasses.replace(_RSB_A2.schedule, end=1e-6 / 8e-3),
    augmentation=dataclasses.replace(_RSB_A2.augmentation, auto_magnitude=6, repeats=1),
    train_size=160,
    network={"zero_init_residual": True},
    citations={
        field: citation
        for field, citation in _RSB_A2.citations.items()
        if field not in ("network.stochastic_depth", "augmentation.repeats")
    }
    | cited(
        "Wightman et al. 2021 (arXiv:2110.00476), procedure A3; not verified in the paper itself: "
        f"the values are from {_A3_BOTH}",
        {
            _A3_BOTH: "duration optimizer.learning_rate loss.name",
            f"{_A3_BOTH}{_BY_BATCH}": "augmentation.mixup augmentation.cutmix",
            f"{_A3_CONFIG}: not on biases and BN, as by default in timm": "optimizer.decay_on",
            f"Li et al. 2024, Table A3: 6{_DEVIATION}": _AUTO,
            "Li et al. 2024, Table A3; but the data config of mmpretrain crops to 224": (
                "train_size"
            ),
        },
    ),
    expected={"resnet50": 78.052},
)

_LARS_90 = Recipe(
    "lars-90",
    duration=90,
    batch_size=32768,
    optimizer=OptimizerConfig("lars", learning_rate=32.0, weight_decay=1e-4, epsilon=0.0),
    schedule=ScheduleConfig("polynomial", warmup=14, end=1e-4 / 32.0),
    loss=LossConfig(label_smoothing=0.1),
    augmentation=Augmentation(crop="inception", flip=0.5),
    protocol=EvalProtocol(224, 256, "bicubic"),
    network={"zero_init_residual": True},
    citations=cited(
        "You et al. 2017 (arXiv:1708.03888), as in tensorflow/tpu for batches of 32,768. No "
        "accuracy is published for exactly these values; the target of MLPerf, which uses other "
        "values, is 75.9",
        {
            f"{_TPU} README.md@11a028bf; 3558 steps, or 91 epochs, in "
            "configs/cloud/v3-256.yaml@8055210d": "duration",
            f"{_TPU} configs/cloud/v3-256.yaml@8055210d, which says that it is not optimized": (
                "batch_size loss.label_smoothing"
            ),
            f"{_TPU} lars_util.py@61dbdbc1, for batches of 32,768; but 34 after 12 epochs in "
            "@11a028bf": "optimizer.name optimizer.learning_rate schedule.warmup",
            f"{_TPU} configs/resnet_config.py@07e173cc": "optimizer.momentum "
            "optimizer.weight_decay",
            f"{_TPU} lars_util.py@61dbdbc1: not on BN and biases": "optimizer.decay_on",
            "mlcommons/training_policies@d73e20f1 training_rules.adoc": "optimizer.epsilon",
            "mlcommons/training_results_v4.0 NVIDIA/benchmarks/resnet": (
                "optimizer.trust_coefficient"
            ),
            f"{_TPU} lars_util.py@61dbdbc1, and "
            "mlcommons/training_policies@d73e20f1 training_rules.adoc": "schedule.name "
            "schedule.power schedule.end",
            f"{_TPU} resnet_preprocessing.py@08070086: bicubic; here, training is bilinear": (
                f"augmentation.crop augmentation.flip {PROTOCOL}"
            ),
            f"{_TPU} README.md@11a028bf and resnet_model.py@0325bfff": (
                "network.zero_init_residual"
            ),
        },
    ),
)

#: All recipes of this module, in the order of the table.
LIBRARIES = (
    _NVIDIA_RN50,
    _TORCHVISION_V1,
    _TORCHVISION_V2,
    _RSB_A1,
    _RSB_A2,
    _RSB_A3,
    _LARS_90,
)
