"""Names of strategies and precisions, importable without TensorFlow."""

from __future__ import annotations

from typing import Literal

StrategyName = Literal["auto", "cpu", "gpu", "mirrored", "multi-worker", "tpu"]
Precision = Literal["float32", "bfloat16", "float16"]
