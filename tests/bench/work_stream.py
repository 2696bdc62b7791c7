"""A table that does not fit its memory budget, against one that lies in memory.

work = make_stream_work(num_rows=20_000_000)
"""

from pathlib import Path

from contenders import FOLDER, make_run, ratio
from measure import Bar, Round, Work, talk
from stream_table import write_table

from dnnjob.config import DataConfig
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.order import default_window_rows

_NUM_FEATURES = 20
# A tenth of the rows, ten times over: as many steps, and memory for it is found everywhere. Ten
# times the rows in memory at once would be no faster to gather from.
_PARTS = 10


def make_stream_work(*, num_rows: int) -> Work:
    """One epoch from the disk within half a gigabyte, and as many rows of a table in memory."""
    whole, tenth = _write(num_rows), _write(num_rows // _PARTS)
    # A smaller trial has as many windows.
    data = DataConfig(source=str(whole), target="y")
    kinds: dict[str, FeatureKind] = {f"x{number}": "numeric" for number in range(_NUM_FEATURES)}
    window_rows = min(default_window_rows(data, kinds), num_rows // 6)

    def make_bars(rounds: list[Round]) -> list[Bar]:
        return [
            Bar("streamed / resident", ratio("streamed", "resident", "rows_per_s"), 0.85),
            Bar("streamed, peak GB", lambda one: one["streamed"]["peak_gb"], at_most=2.0),
        ]

    return Work(
        name="stream",
        title=f"{num_rows:,} rows x {_NUM_FEATURES}, batch 8192, one epoch within 0.5 GB; "
        f"resident: a tenth of the rows, {_PARTS} epochs",
        contenders=(
            make_run(
                "stream.toml",
                whole,
                'output.predictions="none"',
                f"data.window_rows={window_rows}",
                name="streamed",
            ),
            make_run(
                "stream.toml",
                tenth,
                'output.predictions="none"',
                "data.memory_budget_gb=100",
                f"data.window_rows={num_rows}",
                f"train.epochs={_PARTS}",
                name="resident",
            ),
        ),
        figures=("rows_per_s", "train_s", "peak_gb", "wall_s", "foreign_cores"),
        make_bars=make_bars,
    )


def _write(num_rows: int) -> Path:
    """The table of so many rows; kept for the next time."""
    path = FOLDER / f"stream-{num_rows}.parquet"
    if not path.exists():
        talk(f"Writing {num_rows:,} rows to {path}")
        half_written = path.with_suffix(".part")
        write_table(half_written, num_rows=num_rows, num_features=_NUM_FEATURES)
        half_written.rename(path)
    return path
