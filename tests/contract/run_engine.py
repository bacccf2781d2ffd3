"""`python -m tests.contract.run_engine <engine options>`: the engine with scripted cores.

The API process, the sockets and the core processes are real; a core is there in a moment, as it
imports no torch. Its answers are 40 tokens long, one each 20 ms.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from engine import logs
from engine.api.keys import Keys
from engine.api.server import serve
from engine.api.shares import shares
from engine.config import EngineConfig
from engine.launch import bind
from tests.contract.fake_core import READY, FakeCore, Script

CORE_COMMAND = (sys.executable, "-m", "tests.contract.run_engine", "core")
NUM_TOKENS = 40
STEP_S = 0.02


async def run_core(path: Path) -> None:
    core = FakeCore(path)
    core.script = Script(text="x" * NUM_TOKENS, step_s=STEP_S)
    serving = asyncio.create_task(core.run())
    while not core.is_connected:
        await asyncio.sleep(0.001)
    core.send(READY)
    await serving


def main(argv: Sequence[str]) -> int:
    logs.setup()
    if argv[0] == "core":
        asyncio.run(run_core(Path(argv[2])))
        return 0
    config = EngineConfig.parse(argv)
    listener = bind(config.host, config.port)
    return asyncio.run(serve(config, listener, Keys(), shares(config), core_command=CORE_COMMAND))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
