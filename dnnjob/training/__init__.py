"""The training room: the network, the compiled step, checkpoints and evaluation, on TensorFlow."""
