"""Serve an exported ONNX file with MLServer, by the Open Inference Protocol over REST and gRPC.

pip install -r requirements.txt        # in an environment of its own: it needs an older protobuf
cp exported/model.onnx . && mlserver start .
"""

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class OnnxModel(MLModel):
    """Model that takes the inputs of an ONNX file by name, and returns all of its outputs."""

    async def load(self) -> bool:
        path = await get_model_uri(self._settings)
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        names = [value.name for value in self.session.get_outputs()]
        images = {
            tensor.name: NumpyCodec.decode_input(tensor).astype(np.float32)
            for tensor in payload.inputs
        }
        values = self.session.run(names, images)
        outputs = [
            NumpyCodec.encode_output(name, value) for name, value in zip(names, values, strict=True)
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
