"""Learning rates of the steps, in pure NumPy, handed to the compiled function as a tensor.

rates = learning_rates(job.train, steps=np.arange(6), num_steps=3000)
"""

import numpy as np
import numpy.typing as npt

from dnnjob.config import TrainConfig

_EXPONENTIAL_END = 0.01


def learning_rates(
    train: TrainConfig, *, steps: npt.NDArray[np.int64], num_steps: int
) -> npt.NDArray[np.float32]:
    """Learning rate of each step: a linear warm-up, then the schedule.

    Args:
        train: Schedule, peak rate and warm-up.
        steps: Numbers of the steps, 0-based, any shape.
        num_steps: Steps of the whole training.

    Returns:
        Same shape as `steps`. A cosine falls to zero at `num_steps` (Loshchilov and Hutter,
        arXiv:1608.03983), and so does the last of four whose length doubles (coslog4 of RealMLP,
        arXiv:2407.04491); an exponential falls to a hundredth of the peak.
    """
    done = steps.astype(np.float64)
    warmup = np.minimum(1.0, (done + 1) / (train.warmup_steps + 1))
    progress = np.clip(
        (done - train.warmup_steps) / max(1, num_steps - train.warmup_steps), 0.0, 1.0
    )
    match train.schedule:
        case "constant":
            factor = np.ones_like(progress)
        case "cosine":
            factor = 0.5 * (1 + np.cos(np.pi * progress))
        case "coslog4":
            factor = 0.5 * (1 - np.cos(2 * np.pi * np.log2(1 + 15 * progress)))
        case "exponential":
            factor = _EXPONENTIAL_END**progress
    rates: npt.NDArray[np.float32] = (train.learning_rate * warmup * factor).astype(np.float32)
    return rates
