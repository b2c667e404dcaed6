"""Send image files to TF Serving's gRPC interface and print their classes.

    python client_grpc.py --model resnet20 photo.jpg more/*.jpg

Needs tensorflow-serving-api. The request has the files without base64, and asks for two outputs
only: class names and their probabilities.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

#: A request with many photographs exceeds gRPC's default limit of 4 MiB.
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def classify(
    address: str, model: str, files: Sequence[bytes], timeout: float = 30
) -> list[list[tuple[str, float]]]:
    """Return the most probable classes of every file, with their probabilities.

    Args:
        address: address of the server, such as `localhost:8500`.
        model: name of the model in `models.config`.
        files: contents of JPEG or PNG files.
        timeout: seconds to wait for the server.

    Raises:
        ValueError: the server refuses the request, for instance because a file is not an image.
        grpc.RpcError: the server does not answer.
    """
    request = predict_pb2.PredictRequest(output_filter=["classes", "scores"])
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_bytes"
    request.inputs["bytes"].CopyFrom(tf.make_tensor_proto(list(files), tf.string))
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            answer = stub.Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                raise ValueError(error.details()) from error
            raise
    names, scores = (tf.make_ndarray(answer.outputs[key]) for key in ("classes", "scores"))
    return [
        [(name.decode(), float(score)) for name, score in zip(*row, strict=True)]
        for row in zip(names, scores, strict=True)
    ]


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--address", default="localhost:8500")
    arguments = parser.parse_args()
    try:
        files = [path.read_bytes() for path in arguments.files]
        results = classify(arguments.address, arguments.model, files)
    except (OSError, ValueError, grpc.RpcError) as error:
        print(error, file=sys.stderr)
        return 1
    for path, classes in zip(arguments.files, results, strict=True):
        named = ", ".join(f"{name} {score:.1%}" for name, score in classes)
        print(f"{path}: {named}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
