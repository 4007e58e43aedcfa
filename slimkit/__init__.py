"""slimkit: make convolutional networks narrower for real."""

__version__ = "0.1.0"
