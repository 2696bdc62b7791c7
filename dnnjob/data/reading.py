"""What readers of broken files raise, told as one error.

with reading_file(path):
    ...                                   # a DataError names the file, whatever its reader raised
"""

import csv
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dnnjob.errors import DataError, first_line

# What a broken, truncated, locked or foreign file makes its reader raise; the errors of pandas,
# pyarrow and text decoding are ValueErrors, OSErrors and RuntimeErrors.
READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    csv.Error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


@contextmanager
def reading_file(path: Path) -> Iterator[None]:
    """Turns whatever a broken file makes its reader raise into one error that names it.

    Raises:
        DataError: In place of the reader's error.
    """
    try:
        yield
    except READ_ERRORS as error:
        told = first_line(error).rstrip(".")
        if isinstance(error, UnicodeError) or "invalid UTF8" in told:
            raise DataError(
                f"Text must be UTF-8 unless another encoding is named, but reading {path} failed: "
                f'{told}. Set data.encoding to what wrote it, such as "latin-1", '
                '"cp1252" or "utf-16", or save it as UTF-8.'
            ) from error
        raise DataError(
            f"A table is a readable CSV (UTF-8) or Parquet file, but reading {path} failed: "
            f"{told}. Replace the file, or point data.source elsewhere."
        ) from error
