"""Which member leaves which training rows out."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dnnjob.data.table import Table
from tests.data.opened import open_frame


def table_of(tmp_path: Path, num_rows: int = 103, **data: Any) -> Table:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=num_rows),
            "when": rng.permutation(num_rows).astype(float),
            "who": rng.integers(0, 17, size=num_rows).astype(str),
            "y": rng.normal(size=num_rows),
        }
    )
    return open_frame(frame, tmp_path, **data)
