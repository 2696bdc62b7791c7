"""What one compiled call takes as values, so that it serves all points of a sweep over them.

values = Hyperparameters.of(job)
kind = describe_kind(job)          # what the call is compiled for
"""

from typing import Any, NamedTuple

import numpy as np

from dnnjob.config import JobConfig

# Compiled calls that a process keeps: a search over layers comes back to each of its shapes.
MOST_CALLS = 8
# What reaches the compiled call as tensors, or does not reach it.
_TRAIN_VALUES = {
    *("epochs", "learning_rate", "schedule", "warmup_steps", "checkpoint_every_s"),
    *("weight_decay", "momentum", "clip_norm", "patience", "min_delta"),
}
_MODEL_VALUES = {"members", "dropout_rate", "l2"}


class Hyperparameters(NamedTuple):
    """Scalars that enter the compiled call; what a job leaves out is 0 and not looked at.

    Attributes:
        dropout_rate: Share of the inputs of a layer that are dropped, float32 as what follows.
        kept_scale: What those that are not are multiplied by; a product costs less than a division.
        penalty: What a kernel adds to its gradient, times itself.
        clip_norm: Largest global norm of a step's gradient.
        decay: Share of a weight that a step of learning rate 1 takes away.
        momentum: Share of its last change that a weight keeps.
        min_delta: By how much a better epoch's validation loss is less.
        patience: Epochs without a better one, int32.
    """

    dropout_rate: Any
    kept_scale: Any
    penalty: Any
    clip_norm: Any
    decay: Any
    momentum: Any
    min_delta: Any
    patience: Any

    @classmethod
    def of(cls, job: JobConfig) -> "Hyperparameters":
        """Those of a job."""
        model, train = job.model, job.train
        return cls(
            dropout_rate=np.float32(model.dropout_rate),
            kept_scale=np.float32(1.0) / np.float32(1.0 - model.dropout_rate),
            penalty=np.float32(2.0 * model.l2),
            clip_norm=np.float32(train.clip_norm or 0.0),
            decay=np.float32(train.decay or 0.0),
            momentum=np.float32(train.momentum),
            min_delta=np.float32(train.min_delta),
            patience=np.int32(train.patience or 0),
        )


def describe_kind(job: JobConfig) -> Any:
    """What jobs share that one compiled call can serve: their keys, of values whether there is one.

    A dropout rate of 0, say, compiles no dropout at all.
    """
    model, train = job.model, job.train
    return (
        model.model_dump(exclude=_MODEL_VALUES),
        train.model_dump(exclude=_TRAIN_VALUES),
        *map(bool, (model.dropout_rate, model.l2, train.decay, train.momentum)),
        *map(bool, (train.clip_norm, train.patience)),
    )
