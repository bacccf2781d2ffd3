"""What the panel can be told by environment: where it keeps things and where it listens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from engine.config import Options, option


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """Read once, at the start of each program, from AUTOGLM_* variables."""

    home: str = option("", "Folder of everything kept; default: ~/.local/share/autoglm")
    database_url: str = option("", "SQLAlchemy URL; default: SQLite in the home folder")
    host: str = option("127.0.0.1", "Address of the panel")
    port: int = option(8501, "Port of the panel", lo=1, hi=65535)
    interval_s: float = option(0.5, "Seconds between two looks of the supervisor", lo=0.05, hi=60)
    log_lines_kept: int = option(200_000, "Log lines kept per deployment", lo=1000)
    log_level: str = option(
        "info", "Least level that is logged", choices=("debug", "info", "warning", "error")
    )

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Self:
        return cls.from_env(os.environ if env is None else env)

    @property
    def home_path(self) -> Path:
        """AUTOGLM_HOME, else XDG_DATA_HOME/autoglm, else ~/.local/share/autoglm."""
        if self.home:
            return Path(self.home).expanduser().absolute()
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return Path(base) / "autoglm"

    @property
    def url(self) -> str:
        return self.database_url or f"sqlite:///{self.home_path / 'autoglm.db'}"

    @property
    def models_path(self) -> Path:
        return self.home_path / "models"

    @property
    def logs_path(self) -> Path:
        return self.home_path / "logs"

    @property
    def keys_path(self) -> Path:
        return self.home_path / "keys"

    def child_environment(self) -> dict[str, str]:
        """Variables that give a child process these same settings."""
        return {f"AUTOGLM_{k.upper()}": str(v) for k, v in self.to_dict().items() if v != ""}
