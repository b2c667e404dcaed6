"""Export a network to int8 TFLite and run the file as an app does. Run `make demo` first.

Prints (figures differ between machines; the first line is shortened here):

    Comparison(images=360, max_error=0.039…, agreement=1.0, …, accuracy=0.994…, …)
    7 should be 7
"""

import keras
from ai_edge_litert.interpreter import Interpreter

from keras_resnet.data import load_digits
from keras_resnet.export import export

train, test = load_digits()
model = keras.saving.load_model("demo-output/model.keras")
few, held_out = train.images[:200], {"images": test.images, "labels": test.labels}
report = export(model, "mobile", ["tflite-int8"], calibration=few, overwrite=True, **held_out)
print(report.artifacts[-1].comparison)
classify = Interpreter("mobile/model-int8.tflite").get_signature_runner("serving_default")
answer = classify(image=test.images[:1].astype("float32"))["probabilities"]
print(answer.argmax(), "should be", test.labels[0])
