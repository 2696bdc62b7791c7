"""How many members go side by side in one call."""

from dataclasses import dataclass
from typing import Any

import pytest

from dnnjob.config import JobConfig, resolve_job
from dnnjob.training.stack_width import network_bytes, point_room, stack_width
from tests.training.conftest import plain_encoding


@dataclass(frozen=True)
class Device:
    """What the rule asks of devices."""

    kind: str = "gpu"
    xla: bool = True
    num_replicas: int = 1
    memory: float = 1e9
    names: tuple[str, ...] = ("one",)

    def memory_bytes(self) -> float:
        return self.memory


def make_job(*, members: int = 50, stack: int = 0) -> JobConfig:
    values = {
        "name": "x",
        "data": {"source": "x.csv", "target": "y"},
        "model": {"hidden_units": [200, 1000], "members": members},
        "devices": {"stack": stack},
    }
    return resolve_job(values, origin="test")


@pytest.mark.parametrize(
    "device", [Device(kind="cpu"), Device(xla=False), Device(num_replicas=2)], ids=str
)
def test_only_one_gpu_under_xla_has_a_leading_axis(device: Device) -> None:
    assert stack_width(make_job(), plain_encoding(5), device) == 0  # type: ignore[arg-type]


def test_a_single_network_has_a_call_of_its_own() -> None:
    width = stack_width(make_job(members=1), plain_encoding(5), Device())  # type: ignore[arg-type]
    assert width == 0


@pytest.mark.parametrize(("stack", "expected"), [(0, 50), (7, 7), (70, 50)])
def test_all_members_go_side_by_side_unless_the_job_says_fewer(stack: int, expected: int) -> None:
    job = make_job(stack=stack)
    width = stack_width(job, plain_encoding(5), Device(memory=1e12))  # type: ignore[arg-type]
    assert width == expected


@pytest.mark.parametrize(("stack", "memory"), [(1, 1e12), (0, 1e3)])
def test_members_that_go_one_at_a_time_have_calls_of_their_own(stack: int, memory: float) -> None:
    job = make_job(stack=stack)
    width = stack_width(job, plain_encoding(5), Device(memory=memory))  # type: ignore[arg-type]
    assert width == 0


def test_memory_bounds_the_width() -> None:
    job, encoding = make_job(), plain_encoding(5)
    each = network_bytes(job, encoding, rows=64)
    # 5-200-1000-1: 16 to 24 bytes a parameter, and the activations of 64 rows.
    assert 16 * 203_201 < each < 24 * 203_201

    width = stack_width(job, encoding, Device(memory=12 * each))  # type: ignore[arg-type]

    assert width == 6


def test_a_device_has_room_for_so_many_points_as_its_memory_holds_with_their_rows() -> None:
    job = make_job(members=1)

    def room(rows: int, memory: float, host: float = 1e12) -> int:
        device: Any = Device(memory=memory)
        return point_room(job, plain_encoding(5), device, num_rows=rows, host_bytes=host)

    assert room(354, 1e10) > 100
    assert room(100_000, 1e10) < room(354, 1e10)
    assert room(354, 1e3) == 1
    # All are in one process: the machine has to hold their tables, too.
    assert 1 < room(354, 1e10, host=1e9) < 100
    assert room(10**7, 1e12, host=1e9) == 2


@pytest.mark.parametrize(
    ("members", "device"), [(1, Device(kind="cpu")), (1, Device(num_replicas=2)), (2, Device())]
)
def test_a_point_that_cannot_share_a_call_takes_no_room(members: int, device: Device) -> None:
    job = make_job(members=members)
    given: Any = device
    assert point_room(job, plain_encoding(5), given, num_rows=354, host_bytes=1e12) == 0
