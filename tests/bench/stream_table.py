"""Writes the benchmark's table that is larger than memory: seeded, float32, part by part.

python tests/bench/stream_table.py build/bench/stream.parquet --rows 20000000 --features 20
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PART_ROWS = 2**20


def main() -> None:
    """Writes the table that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--features", type=int, default=20)
    arguments = parser.parse_args()
    write_table(arguments.path, num_rows=arguments.rows, num_features=arguments.features)


def write_table(path: Path, *, num_rows: int, num_features: int) -> None:
    """A smooth target of normal features, with noise, in row groups of a million rows."""
    names = [f"x{number}" for number in range(num_features)]
    schema = pa.schema([(name, pa.float32()) for name in [*names, "y"]])
    directions = np.random.default_rng(20).standard_normal((num_features, 3))
    directions = (directions / np.sqrt(num_features)).astype(np.float32)
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for part, first in enumerate(range(0, num_rows, PART_ROWS)):
            rng = np.random.default_rng([21, part])
            size = min(PART_ROWS, num_rows - first)
            x = rng.standard_normal((size, num_features), dtype=np.float32)
            noise = 0.2 * rng.standard_normal(size, dtype=np.float32)
            y = np.tanh(x @ directions).sum(axis=1) + noise
            columns = [*(np.ascontiguousarray(column) for column in x.T), y]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


if __name__ == "__main__":
    main()
