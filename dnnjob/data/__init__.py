"""Tables: where they come from, what their columns hold, how rows are split, scaled and ordered.

table = open_table(job.data)
split = split_rows(table.num_rows, test_fraction=0.3, validation_fraction=0.0, seed=0)
encoding = fit_encoding(table, split, job.data)
"""

from dnnjob.data.encoding import Encoding
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.schema import Column
from dnnjob.data.sources import Table, open_table, peek_columns, read_columns
from dnnjob.data.split import Split, split_rows
from dnnjob.data.statistics import fit_encoding

__all__ = [
    "Column",
    "Encoding",
    "Fingerprint",
    "Split",
    "Table",
    "fit_encoding",
    "open_table",
    "peek_columns",
    "read_columns",
    "split_rows",
]
