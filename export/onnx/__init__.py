"""ONNX files: written, quantized, looked into."""
