"""Entry point of `python -m keras_resnet`, the same as the command `keras-resnet`."""

from keras_resnet.cli import main

if __name__ == "__main__":
    main()
