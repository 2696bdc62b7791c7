"""What TensorFlow finds on this machine, as JSON on stdout; a process apart, since it may crash.

python -m dnnjob.training.probe
"""

import json
import time
from typing import Any

import keras
import tensorflow as tf

_SIZE = 2048
_FLOP = 2 * _SIZE**3


def probe() -> dict[str, Any]:
    """Versions, and each device with the speed of a float32 matrix product."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    devices = [
        time_matmul(device.name)
        for kind in ("GPU", "CPU")
        for device in tf.config.list_logical_devices(kind)
    ]
    return {"tensorflow": tf.__version__, "keras": keras.__version__, "devices": devices}


def time_matmul(device: str) -> dict[str, Any]:
    """Name of the device, GFLOP/s of the faster of two products, and whether they were right."""
    seconds = []
    with tf.device(device):
        ones = tf.ones((_SIZE, _SIZE))
        tf.matmul(ones, ones)
        for _ in range(2):
            began = time.perf_counter()
            # Reading the sum waits for the device.
            total = float(tf.reduce_sum(tf.matmul(ones, ones)[:8, :8]))
            seconds.append(time.perf_counter() - began)
    return {
        "name": device.removeprefix("/device:"),
        "gflop_per_s": _FLOP / min(seconds) / 1e9,
        "right": total == 64 * _SIZE,
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
