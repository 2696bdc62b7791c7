"""Job files and profiles: what they may say, how the command line overrides them, and sweeps.

job = load_job(Path("jobs/housing.toml"), overrides=["seed=7", "train.learning_rate=0.003"])
for point in make_points(job): ...
"""

from dnnjob.config.data_section import DataConfig
from dnnjob.config.job import DevicesConfig, JobConfig, ModelConfig, OutputConfig, TrainConfig
from dnnjob.config.overrides import (
    change_devices,
    list_keys,
    load_job,
    load_job_again,
    make_job,
    nearest_keys,
    parse_devices,
    resolve_job,
    to_toml,
    without_keys,
)
from dnnjob.config.profile import ProfileConfig, load_profile, resolve_profile, split_words
from dnnjob.config.sweep import Point, make_points

__all__ = [
    "DataConfig",
    "DevicesConfig",
    "JobConfig",
    "ModelConfig",
    "OutputConfig",
    "Point",
    "ProfileConfig",
    "TrainConfig",
    "change_devices",
    "list_keys",
    "load_job",
    "load_job_again",
    "load_profile",
    "make_job",
    "make_points",
    "nearest_keys",
    "parse_devices",
    "resolve_job",
    "resolve_profile",
    "split_words",
    "to_toml",
    "without_keys",
]
