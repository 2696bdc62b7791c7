"""What is predicted so far, kept like training: a later attempt predicts the rest.

kept = PredictionKeeper(paths.predicted, journal, crew, trained=position, every_s=30)
y_pred = predict_rows(dnn, x, kept=kept)
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from dnnjob.errors import StoppedError
from dnnjob.runs import Journal, Position
from dnnjob.tasks import Crew
from dnnjob.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

logger = logging.getLogger(__name__)


@dataclass
class PredictionKeeper:
    """The predictions of one run on their way, in a file beside its checkpoints.

    Attributes:
        path: The file.
        journal: Told how far predicting has come.
        crew: Told to stop.
        trained: Where training ended.
        every_s: Seconds between two writings.
    """

    path: Path
    journal: Journal
    crew: Crew
    trained: Position
    every_s: float
    _written_at: float = field(default_factory=time.monotonic)
    _weights: str = ""

    def restore(self, dnn: keras.Sequential, num_rows: int) -> npt.NDArray[np.float32]:
        """The first predictions, if an earlier attempt left some of these weights; else none."""
        self._weights = _digest(dnn.get_weights())
        try:
            found = read_checkpoint(self.path)
        except FileNotFoundError:
            return np.empty(0, np.float32)
        except (OSError, ValueError, KeyError) as error:
            logger.warning("Skipping the damaged predictions %s: %s.", self.path, error)
            return np.empty(0, np.float32)
        predicted = found.arrays.get("predicted", np.empty(0, np.float32))
        if found.facts.get("weights") != self._weights or len(predicted) > num_rows:
            return np.empty(0, np.float32)
        self.journal.mark_resumed(found.position)
        logger.info("Going on from predicted row %d of %d.", len(predicted) + 1, num_rows)
        return np.asarray(predicted, np.float32)

    def keep(self, blocks: Sequence[npt.NDArray[np.float32]]) -> None:
        """Writes the predictions if the last writing is old enough, or the run is to stop.

        Raises:
            StoppedError: If a signal asked for it.
        """
        try:
            self.crew.check()
        except StoppedError:
            self._write(blocks)
            raise
        if time.monotonic() - self._written_at >= self.every_s:
            self._write(blocks)

    def _write(self, blocks: Sequence[npt.NDArray[np.float32]]) -> None:
        predicted = np.concatenate(blocks)
        position = self.trained.model_copy(update={"predicted": len(predicted)})
        checkpoint = Checkpoint(position, {"weights": self._weights}, {"predicted": predicted})
        try:
            self.journal.recheck()
            write_checkpoint(self.path, checkpoint)
        except OSError as error:
            logger.warning("The predictions so far could not be kept: %s.", error)
        else:
            self.journal.mark_reached(position)
        self._written_at = time.monotonic()


def _digest(weights: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in weights:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
