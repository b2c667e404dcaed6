"""The networks once more, in numpy, from the papers and the layers' names alone."""

from __future__ import annotations

import keras
import numpy as np

from keras_resnet import ResNetConfig


class NumpyNetwork:
    """Computes logits in float64 from a model's weights and its config."""

    def __init__(self, model: keras.Model, config: ResNetConfig) -> None:
        self.config = config
        self.weights = {layer.name: layer.get_weights() for layer in model.layers}

    def __call__(self, images: np.ndarray) -> np.ndarray:
        config = self.config
        x = self.stem((images.astype(np.float64) - config.mean) / config.std)
        for stage, count in enumerate(config.blocks):
            halving = 1 if stage else None
            if config.preact_layout == "unit_norm_stride_last":
                halving = count if stage < len(config.blocks) - 1 else None
            for number in range(1, count + 1):
                stride = 2 if number == halving else 1
                x = self.block(x, f"conv{stage + 2}_block{number}", stride)
        if config.version == "v2":
            x = relu(self.norm(x, "post"))
        kernel, bias = self.weights["predictions"]
        return x.mean((1, 2)) @ kernel + bias

    def stem(self, x: np.ndarray) -> np.ndarray:
        config = self.config
        first = 1 if config.stem == "cifar" else 2
        if config.stem == "C":
            x = relu(self.norm(self.conv(x, "conv1_1", first), "conv1_1"))
            x = relu(self.norm(self.conv(x, "conv1_2"), "conv1_2"))
            x = self.conv(x, "conv1_3")
        else:
            x = self.conv(x, "conv1", first)
        last = "conv1_3" if config.stem == "C" else "conv1"
        if config.preact_layout == "stem_norm":
            x = relu(self.norm(x, last))
        if config.stem == "cifar":
            return x
        edge = -np.inf if config.preact_layout == "unit_norm" else 0
        windows = np.lib.stride_tricks.sliding_window_view(pad(x, 1, edge), (3, 3), axis=(1, 2))
        x = windows.max((-2, -1))
        return blurred(x) if config.blur_pool else x[:, ::2, ::2]

    def block(self, x: np.ndarray, name: str, stride: int) -> np.ndarray:
        config = self.config
        preactivated = x
        if f"{name}_preact_bn" in self.weights or f"{name}_preact_gn" in self.weights:
            preactivated = relu(self.norm(x, f"{name}_preact"))
        strided = 2
        if config.block == "basic" or config.version == "v1" or config.preact_stride == "1x1":
            strided = 1
        last = 2 if config.block == "basic" else 3
        y = preactivated
        for number in range(1, last + 1):
            blur = config.blur_pool and stride == 2 and number == strided
            y = self.conv(y, f"{name}_{number}", stride if number == strided and not blur else 1)
            if config.version != "v2" or number < last:
                y = self.norm(y, f"{name}_{number}")
            if number < last:
                y = relu(y)
            if blur:
                y = blurred(y)
        if config.se_ratio:
            gate = y.mean((1, 2), keepdims=True)
            gate = relu(self.pointwise(gate, f"{name}_se_reduce"))
            y = y / (1 + np.exp(-self.pointwise(gate, f"{name}_se_expand")))
        if config.shortcut is None:
            x = y
        else:
            widens = x.shape[-1] != y.shape[-1]
            changes = widens or stride != 1
            if config.preact_layout == "unit_norm_stride_last":
                changes = widens
            projected = config.shortcut == "C" or (config.shortcut == "B" and changes)
            source = preactivated if projected or widens else x
            x = y + self.shortcut(source, name, stride, projected, y.shape[-1])
        return x if config.version == "v2" else relu(x)

    def shortcut(
        self, x: np.ndarray, name: str, stride: int, projected: bool, filters: int
    ) -> np.ndarray:
        if not projected:
            extra = filters - x.shape[-1]
            return np.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, extra)))
        if self.config.downsample == "average" and stride == 2:
            x, stride = averaged(x), 1
        x = self.conv(x, f"{name}_0", stride)
        return x if self.config.version == "v2" else self.norm(x, f"{name}_0")

    def conv(self, x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        kernel, *bias = self.weights[f"{name}_conv"]
        size, groups = kernel.shape[0], x.shape[-1] // kernel.shape[2]
        windows = np.lib.stride_tricks.sliding_window_view(
            pad(x, size // 2), (size, size), axis=(1, 2)
        )[:, ::stride, ::stride]
        parts = zip(
            np.split(windows, groups, axis=3), np.split(kernel, groups, axis=3), strict=True
        )
        y = np.concatenate(
            [np.einsum("bhwcij,ijcf->bhwf", window, part) for window, part in parts], axis=3
        )
        return y + bias[0] if bias else y

    def pointwise(self, x: np.ndarray, name: str) -> np.ndarray:
        kernel, bias = self.weights[name]
        return x @ kernel[0, 0] + bias

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        if self.config.norm == "batch":
            gamma, beta, mean, variance = self.weights[f"{name}_bn"]
            return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        gamma, beta = self.weights[f"{name}_gn"]
        groups = x.reshape(*x.shape[:3], self.config.norm_groups, -1)
        mean = groups.mean((1, 2, 4), keepdims=True)
        variance = groups.var((1, 2, 4), keepdims=True)
        return ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * gamma + beta


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def pad(x: np.ndarray, size: int, value: float = 0) -> np.ndarray:
    return np.pad(x, ((0, 0), (size, size), (size, size), (0, 0)), constant_values=value)


def blurred(x: np.ndarray) -> np.ndarray:
    """The 3x3 binomial filter over the reflected image at every other pixel."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    return np.einsum("bhwcij,ij->bhwc", windows, kernel)


def averaged(x: np.ndarray) -> np.ndarray:
    """Averages 2x2 squares; those at the edge of images of odd size are smaller."""
    _, height, width, _ = x.shape
    return np.stack(
        [
            np.stack([x[:, i : i + 2, j : j + 2].mean((1, 2)) for j in range(0, width, 2)], axis=1)
            for i in range(0, height, 2)
        ],
        axis=1,
    )
