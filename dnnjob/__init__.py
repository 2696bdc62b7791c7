"""Tabular DNN regression as one job: train, predict and report, from a laptop to a cluster.

import dnnjob
run = dnnjob.run("jobs/housing.toml", "seed=7")
run.report.metrics.test.mse, run.predict(frame)
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnnjob.api import best as best
    from dnnjob.api import collect as collect
    from dnnjob.api import compare as compare
    from dnnjob.api import open_run as open_run
    from dnnjob.api import open_sweep as open_sweep
    from dnnjob.api import run as run
    from dnnjob.api import submit as submit
    from dnnjob.config import JobConfig as JobConfig
    from dnnjob.errors import DataError as DataError
    from dnnjob.errors import DnnJobError as DnnJobError
    from dnnjob.errors import DnnJobWarning as DnnJobWarning
    from dnnjob.errors import ExitCode as ExitCode
    from dnnjob.errors import JobError as JobError
    from dnnjob.errors import MissingError as MissingError
    from dnnjob.errors import NonFiniteError as NonFiniteError
    from dnnjob.errors import PeerLostError as PeerLostError
    from dnnjob.errors import SlurmError as SlurmError
    from dnnjob.errors import StoppedError as StoppedError
    from dnnjob.run_handles import Run as Run
    from dnnjob.run_handles import Sweep as Sweep

__version__ = "0.1.0"

_FUNCTIONS = (
    "Run",
    "Sweep",
    "best",
    "collect",
    "compare",
    "open_run",
    "open_sweep",
    "run",
    "submit",
)
_ERRORS = (
    "DataError",
    "DnnJobError",
    "DnnJobWarning",
    "ExitCode",
    "JobError",
    "MissingError",
    "NonFiniteError",
    "PeerLostError",
    "SlurmError",
    "StoppedError",
)
_PLACES = {
    **dict.fromkeys(_FUNCTIONS, "dnnjob.api"),
    "JobConfig": "dnnjob.config",
    **dict.fromkeys(_ERRORS, "dnnjob.errors"),
}
__all__ = [*_PLACES]


def _find(name: str) -> Any:
    """A public name, imported once it is asked for: `import dnnjob` alone takes no time."""
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)


class _Package(ModuleType):
    """The package, whose functions `run` and `collect` bear the names of modules.

    An import of `dnnjob.run` would bind the module here; it is found by `from dnnjob.run import`.
    """

    def __getattr__(self, name: str) -> Any:
        if name in _PLACES:
            return _find(name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_PLACES})


for _name in ("run", "collect"):
    _value = property(lambda _, name=_name: _find(name), lambda *_: None)  # type: ignore[misc]
    setattr(_Package, _name, _value)
sys.modules[__name__].__class__ = _Package
