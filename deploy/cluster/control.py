"""Steering a running cluster: requests over a Unix socket in its state directory, one JSON line each way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from deploy.cluster.errors import ClusterError
from deploy.cluster.state import CONTROL, short_path
from deploy.cluster.supervisor import Supervisor


@contextlib.asynccontextmanager
async def served(supervisor: Supervisor, state_dir: Path) -> AsyncIterator[None]:
    """Take requests while the block runs. The socket is the owner's alone, as whoever reaches it may kill processes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
            if line:
                writer.write(json.dumps(await _answer(supervisor, line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    listener = socket.socket(socket.AF_UNIX)
    with short_path(state_dir / CONTROL) as path:
        mask = os.umask(0o077)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
    server = await asyncio.start_unix_server(serve, sock=listener)
    try:
        yield
    finally:
        server.close()


async def _answer(supervisor: Supervisor, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        return {"result": await perform(supervisor, request)}
    except ClusterError as error:
        return {"error": str(error)}
    except (ValueError, KeyError, TypeError) as error:
        return {"error": f"not understood: {error!r}"}


async def perform(supervisor: Supervisor, request: dict[str, Any]) -> Any:
    """Do what a request says. Raises ClusterError when it cannot be done."""
    match request["do"]:
        case "scale":
            return await supervisor.scale(int(request["web"]))
        case "start":
            return await supervisor.start_one(request["name"], wait=bool(request.get("wait", True)))
        case "wait":
            return await supervisor.until_ready()
        case "stop":
            return await supervisor.stop_one(request["name"])
        case "kill":
            return await supervisor.kill_one(request["name"])
        case other:
            raise ClusterError(f"a cluster cannot {other}")


def ask(state_dir: Path, request: dict[str, Any], timeout_s: float) -> Any:
    """Send one request to the cluster of a state directory; its result. Raises ClusterError."""
    try:
        with socket.socket(socket.AF_UNIX) as connection, short_path(state_dir.resolve() / CONTROL) as path:
            connection.settimeout(timeout_s)
            connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline()
    except TimeoutError:
        raise ClusterError(f"the cluster did not {request['do']} within {timeout_s:g} s") from None
    except OSError as error:
        raise ClusterError(f"no cluster answers in {state_dir}: {error.strerror}") from None
    if not line:
        raise ClusterError("the cluster stopped before it answered")
    answer = json.loads(line)
    if "error" in answer:
        raise ClusterError(answer["error"])
    return answer["result"]
