"""Keras's optimizers as the job asks for them.

optimizer = build_optimizer(job.train, dnn)      # inside the strategy's scope
"""

import keras

from dnnjob.config import TrainConfig


def build_optimizer(train: TrainConfig, dnn: keras.Sequential) -> keras.Optimizer:
    """The optimizer with its variables made, so that tracing makes none (keras#23085).

    Learning rate, decay and clipping are the compiled step's; the optimizer gives the update rule.
    """
    match train.optimizer:
        case "sgd":
            optimizer = keras.optimizers.SGD(momentum=train.momentum, nesterov=train.nesterov)
        case "adam" | "adamw":
            optimizer = keras.optimizers.Adam(beta_2=train.beta_2)
        case "rmsprop":
            optimizer = keras.optimizers.RMSprop(momentum=train.momentum)
    optimizer.build(dnn.trainable_variables)
    return optimizer
