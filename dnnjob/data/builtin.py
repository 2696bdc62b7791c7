"""Tables that need no file: `builtin:boston_housing` and `builtin:diabetes`.

table = load_builtin("builtin:diabetes")
table.names, table.values          # (..., "progression"), float64 (442, 11)
"""

import hashlib
import http.client
import io
import logging
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnjob.config.overrides import BUILTIN
from dnnjob.data.raw_columns import FloatArray
from dnnjob.errors import DataError
from dnnjob.machine import user_cache
from dnnjob.runs import write_bytes

# The file behind `keras.datasets.boston_housing`, whose loader shuffles it; here it stays in order.
BOSTON_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/boston_housing.npz"
BOSTON_SHA256 = "f553886a1f8d56431e820c5b82552d9d95cfcb96d1e678153f8839538947dff5"
BOSTON_COLUMN_B = 11
BOSTON_COLUMNS = tuple("CRIM ZN INDUS CHAS NOX RM AGE DIS RAD TAX PTRATIO LSTAT MEDV".split())
DOWNLOAD_TIMEOUT_S = 30.0

DIABETES_COLUMNS = tuple("age sex bmi bp s1 s2 s3 s4 s5 s6 progression".split())

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Builtin:
    """Names and values `(num_rows, len(names))`; the target is the last column.

    `content` is what the fingerprint covers.
    """

    names: tuple[str, ...]
    values: FloatArray
    content: bytes


def is_builtin(source: str) -> bool:
    """Whether `source` names a built-in table instead of files."""
    return source.startswith(BUILTIN)


def builtin_names(source: str) -> tuple[str, ...]:
    """The column names of a built-in table, target last.

    Raises:
        DataError: If there is no such table.
    """
    return _find(source).names


def load_builtin(source: str) -> Builtin:
    """The built-in table that `source` names.

    Raises:
        DataError: If there is no such table, or it cannot be downloaded.
    """
    return _find(source).load()


def _load_diabetes() -> Builtin:
    """The 442 rows of Efron et al. 2004 (doi:10.1214/009053604000000067), in their own units."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True, scaled=False)
    values = np.column_stack([x, y]).astype(np.float64)
    return Builtin(DIABETES_COLUMNS, values, content=values.tobytes())


def _load_boston_housing() -> Builtin:
    """The 506 rows of Harrison and Rubinfeld 1978, in file order, without column `B`."""
    content = _boston_file()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"]
    x = np.delete(x, BOSTON_COLUMN_B, axis=1)
    values = np.column_stack([x, y]).astype(np.float64)
    return Builtin(BOSTON_COLUMNS, values, content=content)


def _boston_file() -> bytes:
    """The bytes of the file, from the cache or else downloaded into it."""
    folder = user_cache()
    if folder is None:
        return _download_boston()
    cached = folder / "boston_housing.npz"
    if (kept := _read_kept(cached)) is not None:
        return kept
    content = _download_boston()
    try:
        write_bytes(cached, content)
    except OSError as error:
        log.warning("%s cannot be kept for the next run (%s).", cached, error.strerror)
    return content


def _read_kept(path: Path) -> bytes | None:
    """The bytes of the cached file, if they can be read and are the right ones."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if _is_boston(content) else None


def _download_boston() -> bytes:
    way_out = (
        "Pass the table as a file instead, data.source=housing.csv, or set XDG_CACHE_HOME to a "
        "folder whose dnnjob/boston_housing.npz is that file."
    )
    try:
        with urllib.request.urlopen(BOSTON_URL, timeout=DOWNLOAD_TIMEOUT_S) as response:
            content: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"builtin:boston_housing is downloaded once, but {BOSTON_URL} cannot be read "
            f"({error}). {way_out}"
        ) from error
    if not _is_boston(content):
        raise DataError(
            f"builtin:boston_housing must have the SHA-256 {BOSTON_SHA256}, but {BOSTON_URL} gave "
            f"{len(content)} bytes with {hashlib.sha256(content).hexdigest()}. {way_out}"
        )
    return content


def _is_boston(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == BOSTON_SHA256


@dataclass(frozen=True)
class _Entry:
    names: tuple[str, ...]
    load: Callable[[], Builtin]


_TABLES = {
    "boston_housing": _Entry(BOSTON_COLUMNS, _load_boston_housing),
    "diabetes": _Entry(DIABETES_COLUMNS, _load_diabetes),
}


def _find(source: str) -> _Entry:
    name = source.removeprefix(BUILTIN)
    if name not in _TABLES:
        raise DataError(
            f"There is no built-in table {name!r}. Set data.source to "
            f"{' or '.join(BUILTIN + known for known in _TABLES)}, or to a file."
        )
    return _TABLES[name]
