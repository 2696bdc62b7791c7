"""The built-in tables."""

import hashlib
import http.server
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from dnnjob.config.data_section import DataConfig
from dnnjob.data import builtin
from dnnjob.data.sources import peek_columns
from dnnjob.errors import DataError, ExitCode
from tests.data.opened import open_table

BOSTON = DataConfig(source="builtin:boston_housing", target="MEDV")


@dataclass
class Store:
    """A web server with one file, and the requests it got."""

    content: bytes
    missing: int = 0
    """Bytes at the end that are announced and not sent."""
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def boston() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.uniform(size=(506, 13)), random.uniform(5, 50, size=506)


@pytest.fixture
def store(
    boston: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    file = io.BytesIO()
    np.savez(file, x=boston[0], y=boston[1])
    store = Store(file.getvalue())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            store.requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(store.content)))
            self.end_headers()
            self.wfile.write(store.content[: len(store.content) - store.missing])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/boston_housing.npz"
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(builtin, "BOSTON_URL", url)
        digest = hashlib.sha256(store.content).hexdigest()
        monkeypatch.setattr(builtin, "BOSTON_SHA256", digest)
        yield store
        server.shutdown()
        thread.join()


def test_boston_housing_is_the_file_in_its_order_without_column_b(
    store: Store, boston: tuple[np.ndarray, np.ndarray]
) -> None:
    table = open_table(BOSTON)
    names = "CRIM ZN INDUS CHAS NOX RM AGE DIS RAD TAX PTRATIO LSTAT"
    assert table.features == tuple(names.split())
    np.testing.assert_array_equal(table.x[:, :11], boston[0][:, :11])
    np.testing.assert_array_equal(table.x[:, 11], boston[0][:, 12])
    np.testing.assert_array_equal(table.y, boston[1])
    assert table.fingerprint.method == "sha256-bytes"
    assert table.fingerprint.value == hashlib.sha256(store.content).hexdigest()


def test_boston_housing_is_downloaded_once(store: Store, tmp_path: Path) -> None:
    open_table(BOSTON)
    open_table(BOSTON)
    assert store.requests == ["/boston_housing.npz"]
    assert [path.name for path in (tmp_path / "cache" / "dnnjob").iterdir()] == [
        "boston_housing.npz"
    ]


def test_a_damaged_copy_in_the_cache_is_downloaded_again(store: Store, tmp_path: Path) -> None:
    cached = tmp_path / "cache" / "dnnjob" / "boston_housing.npz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(store.content[:100])
    assert open_table(BOSTON).num_rows == 506
    assert cached.read_bytes() == store.content


def test_a_download_with_another_checksum_is_refused_and_not_kept(
    store: Store, tmp_path: Path
) -> None:
    store.content = b"not the file"
    with pytest.raises(DataError, match=r"must have the SHA-256 .* gave 12 bytes") as caught:
        open_table(BOSTON)
    assert "data.source=housing.csv" in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_an_array_that_needs_pickle_is_not_unpickled(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    np.savez(file, x=np.array([{}], dtype=object), y=np.zeros(1))
    store.content = file.getvalue()
    digest = hashlib.sha256(store.content).hexdigest()
    monkeypatch.setattr(builtin, "BOSTON_SHA256", digest)
    with pytest.raises(ValueError, match="allow_pickle"):
        open_table(BOSTON)


def test_offline_boston_housing_says_how_to_pass_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(builtin, "BOSTON_URL", "http://127.0.0.1:9/boston_housing.npz")
    with pytest.raises(DataError, match="cannot be read") as caught:
        open_table(BOSTON)
    assert "data.source=housing.csv" in str(caught.value)
    assert caught.value.exit_code == ExitCode.DATA


def test_a_download_that_breaks_off_says_how_to_pass_a_file(store: Store) -> None:
    store.missing = 100
    with pytest.raises(DataError, match=r"cannot be read .*IncompleteRead") as caught:
        open_table(BOSTON)
    assert "data.source=housing.csv" in str(caught.value)


def test_a_cache_that_is_no_file_is_passed_over(store: Store, tmp_path: Path) -> None:
    (tmp_path / "cache" / "dnnjob" / "boston_housing.npz").mkdir(parents=True)
    assert open_table(BOSTON).num_rows == 506


def test_a_cache_that_cannot_be_written_only_warns(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert open_table(BOSTON).num_rows == 506
    assert "cannot be kept for the next run" in caplog.text


def test_boston_columns_are_known_without_a_download(store: Store) -> None:
    names = peek_columns(BOSTON)
    assert names[-1] == "MEDV"
    assert len(names) == 13
    assert store.requests == []


def test_diabetes_is_scikit_learns_table_in_its_own_units() -> None:
    table = open_table(DataConfig(source="builtin:diabetes", target="progression"))
    bunch = load_diabetes(scaled=False)
    assert table.features == tuple(bunch.feature_names)
    np.testing.assert_array_equal(table.x, bunch.data)
    np.testing.assert_array_equal(table.y, bunch.target)
    assert table.fingerprint.method == "sha256-values"


def test_a_builtin_table_can_be_predicted_from_other_columns() -> None:
    table = open_table(
        DataConfig(source="builtin:diabetes", target="bmi", features=("progression", "age"))
    )
    bunch = load_diabetes(scaled=False)
    np.testing.assert_array_equal(table.x[:, 0], bunch.target)
    np.testing.assert_array_equal(table.y, bunch.data[:, 2])


def test_an_unknown_builtin_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="builtin:boston_housing or builtin:diabetes"):
        peek_columns(DataConfig(source="builtin:iris", target="y"))
