"""Classify a photograph with published weights, which are downloaded once.

Prints the three most probable classes, one per line, with probability, name and WordNet id.
"""

from sklearn.datasets import load_sample_image

import keras_resnet

model = keras_resnet.ResNet18(weights="imagenet")
predictor = keras_resnet.Predictor(model)
(best,) = predictor.classify(load_sample_image("flower.jpg"), top=3)
for wordnet_id, name, probability in best:
    print(f"{probability:.1%} {name} ({wordnet_id})")
