"""`keras-resnet data`: scan, prepare and benchmark."""
