"""Exchange weights with torchvision and timm, without torch.

Prints:

    resnet18.safetensors: 102 arrays into 41 layers, names of torchvision
    ('predictions/kernel', 'predictions/bias')
"""

import keras_resnet

model = keras_resnet.ResNet18(classes=10)
# torchvision's and timm's resnet18 load this file; it has their keys.
keras_resnet.save_torch_state_dict(model, "resnet18.safetensors")
# And any checkpoint of theirs builds the network that its keys and shapes describe.
same = keras_resnet.from_checkpoint("resnet18.safetensors")
print(same.load_report)
# Another number of classes keeps the backbone, and says so.
other = keras_resnet.ResNet18(classes=3, weights="resnet18.safetensors")
print(other.load_report.missing)
