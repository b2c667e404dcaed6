"""Writing, quantization and inspection of ONNX files."""
