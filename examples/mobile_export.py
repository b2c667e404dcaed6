"""Export a trained network as int8 TFLite, checked against Keras, and call it as an app does. Run
`make demo` first.
"""

import keras
from ai_edge_litert.interpreter import Interpreter

from keras_resnet.data import load_digits
from keras_resnet.export import export

train, test = load_digits()
model = keras.saving.load_model("demo-output/model.keras")
held_out = {"images": test.images, "labels": test.labels}
report = export(
    model, "mobile", ["tflite-int8"], calibration=train.images[:200], overwrite=True, **held_out
)
print(report.artifacts[-1].comparison)
classify = Interpreter("mobile/model-int8.tflite").get_signature_runner("serving_default")
print(
    classify(image=test.images[:1].astype("float32"))["probabilities"].argmax(),
    "should be",
    test.labels[0],
)
