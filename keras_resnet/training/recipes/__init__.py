"""Training recipes as data. Nothing here imports Keras or TensorFlow."""
