"""A line of talk between two tasks that know one secret: signed JSON lines over TCP.

line = call("10.0.0.1", 41234, secret=secret, timeout_s=5)       # a follower
line = answer(connection, secret=secret, timeout_s=5)            # the chief; None for a stranger
line.send({"rank": 1})
for message in line.messages(): ...      # until the other side ends; ConnectionError if it breaks
"""

import hmac
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

# What was sent must be acknowledged within this time, else the connection counts as broken. A
# process that is merely stopped or busy does not break it: its kernel acknowledges.
_UNACKNOWLEDGED_S = 30
_CHIEF, _FOLLOWER = b"chief", b"follower"
# Bytes of a challenge, and of the HMAC-SHA256 that proves or signs something.
_LENGTH = 32


class Line:
    """One side of a connection; several threads may send.

    Each message is signed with a key of this connection and its number in it, so that none can be
    invented, changed, left out or said again on the way.

    Args:
        connection: To a process that has proved that it knows the secret.
        sent: The key that signs what is sent.
        received: The key that the other side signs with.
    """

    def __init__(self, connection: socket.socket, *, sent: bytes, received: bytes) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._sent, self._received = _Signer(sent), _Signer(received)
        self._file = connection.makefile("rb")
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_S * 1000
            )

    @property
    def address(self) -> str:
        """The other side's address, as it is seen from here."""
        return str(self._connection.getpeername()[0])

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message.

        Raises:
            OSError: If the connection is broken.
        """
        text = json.dumps(message).encode()
        with self._sending:
            self._connection.sendall(self._sent.sign(text) + b" " + text + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None once the other side has ended.

        Raises:
            OSError: If the connection is broken.
            ValueError: If what came is no message, or not the other side's next one.
        """
        line = self._file.readline()
        if not line.endswith(b"\n"):
            return None
        signature, _, text = line[:-1].partition(b" ")
        if not hmac.compare_digest(signature, self._received.sign(text)):
            raise ValueError(f"not signed by the other task: {line[:80]!r}")
        message = json.loads(text)
        if not isinstance(message, dict):
            raise ValueError(f"not a message: {text[:80]!r}")
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
            self._file.close()
            self._connection.close()


def call(address: str, port: int, *, secret: bytes, timeout_s: float) -> Line | None:
    """A line to the chief; None where who listens does not know the secret.

    Raises:
        OSError: If nobody answers in time.
    """
    connection = socket.create_connection((address, port), timeout=timeout_s)
    return _prove(connection, secret, ours=_FOLLOWER, theirs=_CHIEF, timeout_s=timeout_s)


def answer(connection: socket.socket, *, secret: bytes, timeout_s: float) -> Line | None:
    """A line to a task that has called; None for a stranger, who is cut off."""
    try:
        return _prove(connection, secret, ours=_CHIEF, theirs=_FOLLOWER, timeout_s=timeout_s)
    except OSError:
        return None


def _prove(
    connection: socket.socket, secret: bytes, *, ours: bytes, theirs: bytes, timeout_s: float
) -> Line | None:
    """Both sides show that they know the secret, which itself never travels.

    Each signs the random challenges of both, in its role: what was recorded once, or is sent back
    to who said it, proves nothing.
    """
    ends = time.monotonic() + timeout_s
    line = None
    try:
        mine = secrets.token_bytes(_LENGTH)
        connection.sendall(mine)
        other = _receive_exactly(connection, ends)
        challenges = mine + other if ours == _CHIEF else other + mine
        # The follower proves itself first, so that the chief signs nothing for a stranger.
        if ours == _FOLLOWER:
            connection.sendall(_sign(secret, ours + challenges))
        if hmac.compare_digest(
            _receive_exactly(connection, ends), _sign(secret, theirs + challenges)
        ):
            if ours == _CHIEF:
                connection.sendall(_sign(secret, ours + challenges))
            keys = [_sign(secret, b"messages of " + who + challenges) for who in (ours, theirs)]
            line = Line(connection, sent=keys[0], received=keys[1])
        return line
    finally:
        if line is None:
            connection.close()


def _receive_exactly(connection: socket.socket, ends: float) -> bytes:
    """A challenge or a proof.

    Raises:
        OSError: If it does not come in time.
    """
    received = b""
    while len(received) < _LENGTH:
        connection.settimeout(max(0.001, ends - time.monotonic()))
        part = connection.recv(_LENGTH - len(received))
        if not part:
            raise ConnectionError("The other side ended before it had proved itself.")
        received += part
    return received


class _Signer:
    """Signs the messages of one direction, each with its number."""

    def __init__(self, key: bytes) -> None:
        self._key, self._number = key, 0

    def sign(self, text: bytes) -> bytes:
        """The next message's signature, in hexadecimal digits."""
        signature = _sign(self._key, self._number.to_bytes(8, "big") + text)
        self._number += 1
        return signature.hex().encode()


def _sign(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")
