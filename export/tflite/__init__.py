"""TFLite files: written, quantized, looked into."""
