"""Choices of devices for the command line. Importing it imports no TensorFlow."""

from __future__ import annotations

from typing import Literal

StrategyName = Literal["auto", "cpu", "gpu", "mirrored", "multi-worker", "tpu"]
Precision = Literal["float32", "bfloat16", "float16"]
