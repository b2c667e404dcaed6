"""Exchange weights with torchvision and timm, without torch.

Prints:

    resnet18.safetensors: 102 arrays into 41 layers, names of torchvision
    ('predictions/kernel', 'predictions/bias')
"""

import keras_resnet

model = keras_resnet.ResNet18(classes=10)
# The resnet18 of torchvision and timm load this file, as it has their keys.
keras_resnet.save_torch_state_dict(model, "resnet18.safetensors")
# A checkpoint of these packages is enough to build the network that its keys and shapes describe.
same = keras_resnet.from_checkpoint("resnet18.safetensors")
print(same.load_report)
# With another number of classes, the head stays random, and the report lists it.
other = keras_resnet.ResNet18(classes=3, weights="resnet18.safetensors")
print(other.load_report.missing)
