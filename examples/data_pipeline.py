"""Train with `fit` on a data source, with shuffled, augmented and reproducible batches.

Prints, in the last of three epochs:
45/45 - 9s - 195ms/step - accuracy: 0.9297 - loss: 0.2189 - val_accuracy: 0.9194 - val_loss: 0.2392
"""

import keras

import keras_resnet
from keras_resnet.data import (
    Augmentation,
    DataConfig,
    evaluation_batches,
    load_data,
    steps_per_epoch,
    training_batches,
)
from keras_resnet.training import accelerate

# Other data sources are "folder:flowers", "tfds:cifar10", "tfrecord:shards/*" and more.
config = DataConfig("digits", size=32, batch_size=32, augmentation=Augmentation("pad"))
train, validation = load_data(config)
model = keras_resnet.ResNet20(classes=len(train.class_names))
keras_resnet.set_class_names(model, train.class_names, train.class_ids)
model = accelerate(model)  # Batch normalization by TensorFlow's fused operation.
sgd = keras.optimizers.SGD(0.05, momentum=0.9)
model.compile(sgd, "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
model.fit(
    training_batches(train, config, epochs=3),
    epochs=3,
    steps_per_epoch=steps_per_epoch(train, config),
    validation_data=evaluation_batches(validation, config),
    shuffle=False,
    verbose=2,
)
