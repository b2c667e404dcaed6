"""TF Serving's documented rules of the REST interface, without the server and without Keras.

tensorflow.org/tfx/serving/api_rest: `instances` are rows, `inputs` are columns; where a signature
has one input its name may be left out; an object `{"b64": …}` stands for bytes, numbers become what
the signature's dtype is; of several outputs, rows are objects; names that end in `_bytes` are
encoded.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import tensorflow as tf

DEFAULT = "serving_default"


def answer(loaded: Any, body: str) -> dict[str, Any]:
    """What the server answers to the body of a `:predict` request."""
    request = json.loads(body)
    signature = loaded.signatures[request.get("signature_name", DEFAULT)]
    specs = signature.structured_input_signature[1]
    rows = "instances" in request
    inputs = _columns(request["instances"], specs) if rows else _named(request["inputs"], specs)
    tensors = {
        key: tf.constant(_unpacked(value), specs[key].dtype) for key, value in inputs.items()
    }
    outputs = {key: _plain(key, value.numpy()) for key, value in signature(**tensors).items()}
    if len(outputs) == 1:
        (only,) = outputs.values()
        return {"predictions" if rows else "outputs": only}
    if not rows:
        return {"outputs": outputs}
    count = len(next(iter(outputs.values())))
    table = [{key: value[row] for key, value in outputs.items()} for row in range(count)]
    return {"predictions": table}


def _columns(instances: list[Any], specs: dict[str, Any]) -> dict[str, Any]:
    first = instances[0]
    if isinstance(first, dict) and set(first) != {"b64"}:
        return {key: [row[key] for row in instances] for key in first}
    return _named(instances, specs)


def _named(value: Any, specs: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, dict) and set(value) != {"b64"}:
        return value
    (only,) = specs
    return {only: value}


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    return base64.b64decode(value["b64"], validate=True) if isinstance(value, dict) else value


def _plain(key: str, array: np.ndarray) -> Any:
    def text(value: Any) -> Any:
        if isinstance(value, list):
            return [text(item) for item in value]
        encoded = base64.b64encode(value).decode()
        return {"b64": encoded} if key.endswith("_bytes") else value.decode()

    return text(array.tolist()) if array.dtype == object else array.tolist()
