"""Export a SavedModel and call its signature, as TF Serving does. Run `make demo` first.

Prints:

    [7 6 3] should be [7 6 3]
"""

import keras
import tensorflow as tf

from keras_resnet.data import load_digits
from keras_resnet.export import export

_, test = load_digits()
model = keras.saving.load_model("demo-output/model.keras")
export(model, "serving/digits", ["saved_model"], images=test.images, overwrite=True)
serve = tf.saved_model.load("serving/digits/saved_model/1").signatures["serving_default"]
probabilities = serve(image=tf.constant(test.images[:3], tf.float32))["probabilities"]
print(probabilities.numpy().argmax(-1), "should be", test.labels[:3])
