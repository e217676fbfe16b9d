"""The store in which ranks leave their addresses for one another, behind a secret.

torch's TCPStore answers everyone on every interface. This one listens on one address only, and closes a connection that
does not prove within seconds that it knows the job's secret. It reads nothing else of it. Lengths that a peer announces
are bounded, and values are bytes that are never unpickled.

    server   16 random bytes
    client   HMAC-SHA256(secret, those), and then requests: verb, lengths of key and value, key, value
    server   an answer to each: its length, and it
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from ...errors import PeerLost, PeerTimeout
from ..flight import pace

MOST = 1 << 20  # bytes of a key or a value at most; the addresses of a rank take some hundreds
PATIENCE = 10.0  # seconds for a connection to prove that it knows the secret

HEADER, LENGTH = struct.Struct("!cII"), struct.Struct("!I")


class StoreServer:
    """Serves one job from a thread for each connection, on `address` (host, port); port 0 takes a free one."""

    def __init__(self, address: tuple[str, int], secret: bytes) -> None:
        self._values: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        self._secret = secret
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET  # of an address; names count as version 4
        self._socket = socket.create_server(address, family=family)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, name="gossip-store", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), name="gossip-store", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, ValueError):  # gone, or not a request of ours
            connection.settimeout(PATIENCE)
            nonce = secrets.token_bytes(16)
            connection.sendall(nonce)
            if not hmac.compare_digest(_receive(connection, 32), _proof(self._secret, nonce)):
                return
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                verb, key, value = HEADER.unpack(_receive(connection, HEADER.size))
                if max(key, value) > MOST:
                    return
                answer = self._answer(verb, _receive(connection, key), _receive(connection, value))
                connection.sendall(LENGTH.pack(len(answer)) + answer)

    def _answer(self, verb: bytes, key: bytes, value: bytes) -> bytes:
        with self._lock:
            values = self._values
            if verb == b"s":
                values[key] = value
            elif verb == b"+":
                values[key] = b"%d" % (int(values.get(key, b"0")) + int(value))
                return values[key]
            elif verb == b"c" and values.get(key, b"") == value[16:][: int(value[:16])]:
                values[key] = value[16:][int(value[:16]) :]
            elif verb == b"d":
                return b"1" if values.pop(key, None) is not None else b""
            elif verb == b"?":
                return b"1" if key in values else b""
            return values.get(key, b"")

    def close(self) -> None:
        """Take no more connections."""
        self._socket.close()


class StoreClient(dist.Store):
    """One rank's connection, as torch.distributed wants a store to be."""

    def __init__(self, address: tuple[str, int], secret: bytes, timeout: float, rank: int) -> None:
        super().__init__()
        self._seconds = timeout
        self._lock = threading.Lock()
        self._place = f"rank {rank}", f"{address[0]}:{address[1]}"
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._socket = socket.create_connection(address, timeout=max(0.1, deadline - time.monotonic()))
                self._socket.sendall(_proof(secret, _receive(self._socket, 16)))
                self._socket.settimeout(timeout)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ask(b"?", b"")
                return
            except (OSError, PeerLost) as error:
                if time.monotonic() > deadline:
                    raise PeerTimeout(
                        f"rank {rank} did not meet the others at {self._place[1]} within {timeout:g} s ({error}): does "
                        "rank 0 call gossip.init, is its port reachable, and have all ranks the same GOSSIP_SECRET?"
                    ) from error
                time.sleep(0.05)

    def _ask(self, verb: bytes, key: bytes, value: bytes = b"") -> bytes:
        try:
            with self._lock:
                self._socket.sendall(HEADER.pack(verb, len(key), len(value)) + key + value)
                (length,) = LENGTH.unpack(_receive(self._socket, LENGTH.size))
                return _receive(self._socket, min(length, MOST))
        except OSError as error:
            raise PeerLost(
                f"{self._place[0]} lost the store of rank 0 at {self._place[1]} ({error}): has rank 0 ended?"
            ) from error

    # -- what torch calls ----------------------------------------------------------------------------------------------

    def set(self, key: str, value: bytes | str) -> None:
        self._ask(b"s", key.encode(), value.encode() if isinstance(value, str) else bytes(value))

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self._ask(b"g", key.encode())

    def add(self, key: str, value: int) -> int:
        return int(self._ask(b"+", key.encode(), b"%d" % value))

    def compare_set(self, key: str, expected: bytes | str, desired: bytes | str) -> bytes:
        old, new = (v.encode() if isinstance(v, str) else bytes(v) for v in (expected, desired))
        return self._ask(b"c", key.encode(), b"%16d" % len(old) + old + new)

    def delete_key(self, key: str) -> bool:
        return bool(self._ask(b"d", key.encode()))

    def check(self, keys: list[str]) -> bool:
        return all(self._ask(b"?", key.encode()) for key in keys)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        limit = self._seconds if timeout is None else timeout.total_seconds()
        began = time.monotonic()
        while not self.check(keys):
            waited = time.monotonic() - began
            if waited > limit:
                raise PeerTimeout(f"{self._place[0]} waited {limit:g} s for {', '.join(keys)} at {self._place[1]}")
            time.sleep(10 * pace(waited))

    def set_timeout(self, timeout: timedelta) -> None:
        self._seconds = timeout.total_seconds()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def clone(self) -> StoreClient:
        """The same connection, which threads may share."""
        return self


def _proof(secret: bytes, nonce: bytes) -> bytes:
    return hmac.digest(secret, nonce, "sha256")


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 16))
        if not part:
            raise ConnectionError("the other end has closed the connection")
        parts += part
    return bytes(parts)
