"""A real MLflow tracking server on loopback, and a real PostgreSQL for it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Debian keeps the server's programs out of PATH.
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[-1:]


@contextmanager
def postgres() -> Iterator[str]:
    """The URI of a fresh database cluster that listens on a Unix socket only."""
    programs = POSTGRES[0].parent
    # Root may not run it; Debian's package brings a user for it.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if user:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        # To a file: the server that pg_ctl starts would keep a pipe open.
        with (folder / "log").open("ab") as log:
            subprocess.run(command, user=user, cwd=folder, check=True, stdout=log, stderr=log)

    data = str(folder / "data")
    control = (str(programs / "pg_ctl"), "-D", data, "-w")
    try:
        run(str(programs / "initdb"), "-U", "mlflow", "-A", "trust", data)
        run(*control, "-o", f"-c listen_addresses='' -k {folder}", "start")
        # The driver by name: without it SQLAlchemy 2.1 takes psycopg (3), older ones psycopg2.
        yield f"postgresql+psycopg2://mlflow@/postgres?host={folder}"
        run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(store: str, artifacts: Path) -> Iterator[str]:
    """The URI of a server with the given backend store that keeps its artifacts itself."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", store, "--artifacts-destination", str(artifacts), "--workers", "1",
    ]  # fmt: skip
    server = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        _wait(server, f"{uri}/health")
        yield uri
    finally:
        with suppress(ProcessLookupError):  # it ended by itself: the error above says why
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(server: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stdout and server.stdout.read()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer from {url}")
