"""Send image files to TF Serving's REST interface and print their classes.

    python client_rest.py --model resnet20 photo.jpg more/*.jpg

The request has the files in base64. The signature `serving_bytes` decodes, resizes and crops them.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Sequence
from pathlib import Path

import requests


def classify(
    url: str, model: str, files: Sequence[bytes], timeout: float = 30
) -> list[list[tuple[str, float]]]:
    """Return the most probable classes of every file, with their probabilities.

    Args:
        url: address of the server, such as `http://localhost:8501`.
        model: name of the model in `models.config`.
        files: contents of JPEG or PNG files.
        timeout: seconds to wait for the server.

    Raises:
        ValueError: the server refuses the request, for instance because a file is not an image.
        requests.RequestException: the server does not answer.
    """
    body = {
        "signature_name": "serving_bytes",
        "instances": [{"b64": base64.b64encode(data).decode()} for data in files],
    }
    answer = requests.post(f"{url}/v1/models/{model}:predict", json=body, timeout=timeout)
    if answer.status_code != 200:
        raise ValueError(answer.json()["error"])
    return [
        list(zip(row["classes"], row["scores"], strict=True))
        for row in answer.json()["predictions"]
    ]


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="http://localhost:8501")
    arguments = parser.parse_args()
    try:
        files = [path.read_bytes() for path in arguments.files]
        results = classify(arguments.url, arguments.model, files)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for path, classes in zip(arguments.files, results, strict=True):
        named = ", ".join(f"{name} {score:.1%}" for name, score in classes)
        print(f"{path}: {named}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
