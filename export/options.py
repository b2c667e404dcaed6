"""Options of artifacts besides their targets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from keras_resnet.support.checks import check_choice, check_integer, store_integers


def check_storage_uri(uri: Any) -> None:
    """Raises ValueError if `uri` is no address in the characters of RFC 3986, without quotes."""
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]+", str(uri)):
        raise ValueError(
            f"Expected a `storage_uri` such as 's3://bucket/folder'. Received: {uri!r}"
        )


@dataclass(frozen=True)
class ExportOptions:
    """Options of artifacts besides their targets.

    Attributes:
        batch_size: the only batch size that TFLite and ONNX artifacts take; None: any.
        keep_float: names of layers that int8 artifacts compute in float.
        layout: of the ONNX artifacts' input: `"NHWC"` or `"NCHW"`.
        version: directory of a SavedModel's version, for servers.
        serving_batch_sizes: numbers of images in a request that servers are to be ready for.
        storage_uri: where a KServe cluster finds the model, such as `"s3://bucket/folder"`; None:
            in a volume claim of the service's name.

    Raises:
        ValueError: a field has another value than these.
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
                f"Expected a tuple of layers as `keep_float`. Received: {self.keep_float!r}"
            )
