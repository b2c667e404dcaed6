"""What the command line can choose about devices. It imports no TensorFlow."""

from __future__ import annotations

from typing import Literal

StrategyName = Literal["auto", "cpu", "gpu", "mirrored", "multi-worker", "tpu"]
Precision = Literal["float32", "bfloat16", "float16"]
