"""A line of talk between two tasks: JSON lines over TCP.

line = connect("10.0.0.1", 41234, timeout_s=5)
line.send({"rank": 1})
for message in line.messages(): ...      # until the other side ends; ConnectionError if it breaks
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

# What was sent must be acknowledged within this time, else the connection counts as broken. A
# process that is merely stopped or busy does not break it: its kernel acknowledges.
_UNACKNOWLEDGED_S = 30


class Line:
    """One side of a connection; several threads may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._received = connection.makefile("rb")
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_S * 1000
            )

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message.

        Raises:
            OSError: If the connection is broken.
        """
        with self._sending:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None once the other side has ended.

        Raises:
            OSError: If the connection is broken.
            ValueError: If what came is no message.
        """
        line = self._received.readline()
        if not line.endswith(b"\n"):
            return None
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(f"not a message: {line[:80]!r}")
        return message

    def messages(self) -> Iterator[dict[str, Any]]:
        """All messages until the other side ends."""
        while (message := self.receive()) is not None:
            yield message

    def receive_within(self, seconds: float) -> dict[str, Any] | None:
        """The first message; None if the other side ended or says nothing in time."""
        self._connection.settimeout(seconds)
        try:
            return self.receive()
        except (OSError, ValueError):
            return None
        finally:
            self._connection.settimeout(None)

    def hang_up(self) -> None:
        """Ends the talk, for both sides; what was sent still arrives."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hangs up and gives the connection back; not while another thread listens."""
        self.hang_up()
        with suppress(OSError):
            self._received.close()
            self._connection.close()


def connect(address: str, port: int, *, timeout_s: float) -> Line:
    """A line to a task that listens.

    Raises:
        OSError: If nobody answers in time.
    """
    return Line(socket.create_connection((address, port), timeout=timeout_s))
