"""Options of exported artifacts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from keras_resnet.support.checks import check_choice, check_integer, store_integers


def check_storage_uri(uri: Any) -> None:
    """Raise ValueError if `uri` is not a URI (RFC 3986), or has a quote in it."""
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]+", str(uri)):
        raise ValueError(
            f"Expected a `storage_uri` such as 's3://bucket/folder'. Received: {uri!r}"
        )


@dataclass(frozen=True)
class ExportOptions:
    """Options of exported artifacts.

    Examples:
        >>> ExportOptions(batch_size=1, keep_float=("predictions",), layout="NCHW")

    Attributes:
        batch_size: fixed batch size of TFLite and ONNX artifacts; `None`: any batch size.
        keep_float: names of layers that integer artifacts compute in float.
        layout: layout of the input of ONNX artifacts: `"NHWC"` or `"NCHW"`.
        version: version number of the model for servers, at least 1: the name of the SavedModel's
            directory.
        serving_batch_sizes: batch sizes that servers prepare for, in images.
        storage_uri: address where a KServe cluster finds the model, such as
            `"s3://bucket/folder"`; `None`: the persistent volume claim with the service's name.

    Raises:
        ValueError: a field has a value that is not allowed.
    """

    batch_size: int | None = None
    keep_float: tuple[str, ...] = ()
    layout: str = "NHWC"
    version: int = 1
    serving_batch_sizes: tuple[int, ...] = (1, 4, 16)
    storage_uri: str | None = None

    def __post_init__(self) -> None:
        store_integers(self, ("batch_size", "version"))
        sizes = (check_integer("serving_batch_sizes", size) for size in self.serving_batch_sizes)
        object.__setattr__(self, "serving_batch_sizes", tuple(sizes))
        check_choice("layout", self.layout, ("NHWC", "NCHW"))
        if self.storage_uri is not None:
            check_storage_uri(self.storage_uri)
        if not self.serving_batch_sizes:
            raise ValueError("Expected at least one of `serving_batch_sizes`. Received: none")
        if isinstance(self.keep_float, str):
            raise ValueError(
                "Expected `keep_float` to be a tuple of layer names. "
                f"Received: {self.keep_float!r}. Pass ({self.keep_float!r},)"
            )
