"""Networks: from a `ResNetConfig` to a plain `keras.Model`."""
