"""Installs a built wheel into an empty folder and imports it there, away from the source tree.

Run as `python tests/check_wheel.py dist`. Dependencies come from the running environment.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CHECK = """
import pathlib, sys
import keras_resnet
import keras_resnet.export
here = pathlib.Path.cwd().resolve()
for module in (keras_resnet, keras_resnet.export):
    assert here in pathlib.Path(module.__file__).resolve().parents, module.__file__
model = keras_resnet.ResNet20(weights="cifar10")  # A file of the package.
assert keras_resnet.complexity(model).params == 269722
print("The wheel imports and builds ResNet20:", keras_resnet.__version__)
"""


def main(directory: str) -> None:
    (wheel,) = Path(directory).resolve().glob("keras_resnets-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [name for name in names if not name.startswith(("keras_resnet/", "keras_resnets-"))]
    assert not strangers, f"the wheel holds files outside the package: {strangers}"
    assert "keras_resnet/export/targets.py" in names
    assert "keras_resnet/py.typed" in names
    with tempfile.TemporaryDirectory() as empty:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                empty,
                str(wheel),
            ],
            check=True,
        )
        subprocess.run([sys.executable, "-c", CHECK], cwd=empty, check=True)


if __name__ == "__main__":
    main(sys.argv[1])
