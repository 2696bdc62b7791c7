"""Tables: where they come from, what their columns hold, how rows are split, scaled and ordered.

table = open_table(job.data)
split = split_rows(table.num_rows, test_fraction=0.3, validation_fraction=0.0, seed=0)
scale = fit_standardization(table, split, "train")
"""

from dnnjob.data.schema import Column
from dnnjob.data.sources import Fingerprint, Table, open_table, peek_columns, read_columns
from dnnjob.data.split import Split, split_rows
from dnnjob.data.statistics import Standardization, fit_standardization

__all__ = [
    "Column",
    "Fingerprint",
    "Split",
    "Standardization",
    "Table",
    "fit_standardization",
    "open_table",
    "peek_columns",
    "read_columns",
    "split_rows",
]
