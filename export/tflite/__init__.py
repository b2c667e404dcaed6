"""Writing, quantization and inspection of TFLite files."""
