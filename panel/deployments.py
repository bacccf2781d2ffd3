"""The verbs of the panel: pages and command line call these, and nothing else, to get things done.

A verb writes what is wanted and reads what was seen. None of them starts a process: the supervisor
does, within one look at the database. Records that come back are plain values, usable at any time.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from db import chats, deployments, events, log_lines, machines, stages, supervisors
from db.errors import NoSuchRow
from db.models import (
    Chat,
    Deployment,
    Desired,
    Event,
    LogLine,
    StageName,
    State,
    Supervisor,
    utc_now,
)
from db.session import Database
from panel.client import EngineClient
from panel.errors import NotFound, PanelError, ServerUnreachable
from panel.hardware.detect import detect
from panel.hardware.machine import Machine
from panel.models.catalog import Entry
from panel.models.catalog import catalog as read_catalog
from panel.models.shape import ModelShape, shape_of_source
from panel.models.source import parse as parse_source
from panel.ports import require_free
from panel.private import make_private_folder
from panel.runtimes import engine
from panel.runtimes.plan import Plan, typed_options
from panel.settings import Settings
from panel.sizing.choice import Sizing, as_precision, does_not_fit
from panel.sizing.fit import Precision, Verdict, sizes
from panel.sizing.recommend import choose
from panel.sizing.workload import Workload

MACHINE_FACTS_LAST_S = 60.0
"""How long detected facts are used again: free memory and disk change, cores do not."""

SUPERVISOR_SILENT_S = 10.0
"""Without a beat for this long, nobody is acting."""


class Panel:
    """Everything a page or a command can ask for. Safe to share between threads."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self._machine: tuple[float, Machine] | None = None
        self._machine_lock = threading.Lock()

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Make the home folder and bring the database up to date. Raises DatabaseError."""
        for folder in (settings.home_path, settings.keys_path):
            make_private_folder(folder)
        for folder in (settings.models_path, settings.logs_path):
            folder.mkdir(parents=True, exist_ok=True)
        database = Database(settings.url)
        database.migrate()
        return cls(settings, database)

    def close(self) -> None:
        self.database.close()

    # --- what is here, and what would fit -----------------------------------------------------

    def machine(self, refresh: bool = False) -> Machine:
        """The facts of this machine, at most a minute old."""
        with self._machine_lock:
            now = time.monotonic()
            if refresh or not self._machine or now - self._machine[0] > MACHINE_FACTS_LAST_S:
                self._machine = (now, detect(self.settings.models_path))
            return self._machine[1]

    def catalog(self) -> Sequence[Entry]:
        return read_catalog()

    def shape(self, source_text: str) -> ModelShape:
        """What a model is made of. May read a few kilobytes over the network. SourceError."""
        return shape_of_source(parse_source(source_text), self.settings.models_path)

    def size(
        self,
        source_text: str,
        *,
        precision: Precision | str | None = None,
        workload: Workload | None = None,
        machine: Machine | None = None,
    ) -> Sizing:
        """What a model needs here (or on another machine), in every precision."""
        shape = self.shape(source_text)
        machine = machine or self.machine()
        fits = sizes(shape, machine, workload or Workload())
        best = choose(fits, bool(machine.gpus)) or Precision.INT4  # nothing fits: show the smallest
        wanted = as_precision(precision) if precision else best
        return Sizing(shape, fits, wanted)

    # --- asking for a deployment --------------------------------------------------------------

    def plan(
        self,
        source_text: str,
        *,
        name: str | None = None,
        precision: Precision | str | None = None,
        workload: Workload | None = None,
        port: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Plan:
        """A complete plan from what was said; the rest is chosen for this machine."""
        source = parse_source(source_text)
        workload = workload or Workload()
        if precision is None:
            precision = self.size(source_text, workload=workload).chosen
        return Plan(
            source=str(source),
            name=name or source.display_name,
            precision=as_precision(precision),
            workload=workload,
            port=port,
            options=typed_options(options or {}),
        )

    def command_line(self, plan: Plan) -> str:
        """The command that does the same as the wizard's button."""
        return plan.command_line()

    def launch(self, plan: Plan, *, actor: str, force: bool = False) -> Deployment:
        """Ask for a deployment; the supervisor starts it.

        force: also where the sizing says that it is too large.
        Raises DoesNotFit, PortInUse, SourceError, ModelFolderError, ConfigError.
        """
        engine.config(plan, model_path=Path("-"), port=plan.port or 1, api_key_file=None)
        if plan.port is not None:
            require_free(plan.host, plan.port)
        machine = self.machine(refresh=True)
        sizing = self.size(
            plan.source, precision=plan.precision, workload=plan.workload, machine=machine
        )
        if sizing.fit.verdict is Verdict.TOO_LARGE and not force:
            raise does_not_fit(sizing, plan.workload)
        key_file = self._new_key_file()
        try:
            with self.database.begin() as session:
                here = machines.remember(
                    session,
                    fingerprint=machine.fingerprint(),
                    hostname=machine.hostname,
                    facts=machine.to_dict(),
                )
                row = deployments.create(
                    session,
                    name=plan.name,
                    plan=plan.to_dict(),
                    machine_id=here.id,
                    predicted=sizing.fit.to_dict(),
                    actor=actor,
                    api_key_file=str(key_file),
                )
        except BaseException:
            key_file.unlink(missing_ok=True)
            raise
        return self.deployment(row.id)

    def stop(self, id: str, *, actor: str) -> Deployment:
        """Ask that a deployment ends. It does within seconds; see its state."""
        found = self.deployment(id)
        with self.database.begin() as session:
            deployments.set_desired(session, found.id, Desired.STOPPED, actor)
        return self.deployment(found.id)

    def redeploy(self, id: str, *, actor: str) -> Deployment:
        """Ask for a new deployment with the plan of an old one, forced if that one was."""
        old = self.deployment(id)
        was_forced = bool(old.predicted) and old.predicted["verdict"] == Verdict.TOO_LARGE
        return self.launch(Plan.from_dict(old.plan), actor=actor, force=was_forced)

    def delete(self, id: str) -> None:
        """Forget a deployment that has ended, with its logs, key and history. PanelError if not."""
        found = self.deployment(id)
        if not found.state.is_final:
            raise PanelError(
                f"Deployment {found.id} is {found.state}; only one that has ended can be deleted.",
                fix=f"Stop it first: autoglm stop {found.id}",
            )
        is_more = True
        while is_more:  # in short transactions, so that others can write meanwhile
            with self.database.begin() as session:
                is_more = log_lines.discard(session, found.id)
        with self.database.begin() as session:
            deployments.delete(session, found.id)
        shutil.rmtree(self.settings.logs_path / found.id, ignore_errors=True)
        if found.api_key_file:
            Path(found.api_key_file).unlink(missing_ok=True)

    # --- what was seen ------------------------------------------------------------------------

    def deployments(
        self,
        text: str | None = None,
        states: Sequence[State] | None = None,
        limit: int = 200,
    ) -> Sequence[Deployment]:
        """Newest first, each with its last attempt and that one's stages."""
        with self.database.read() as session:
            return deployments.find(session, text=text, states=states, limit=limit)

    def deployment(self, id: str) -> Deployment:
        """By id, by the beginning of an id, or by name. Raises NotFound."""
        with self.database.read() as session:
            try:
                return deployments.get(session, id)
            except NoSuchRow as error:
                raise NotFound(error.message, fix="See `autoglm ls`.") from error

    def events(self, id: str, limit: int = 200) -> Sequence[Event]:
        found = self.deployment(id)
        with self.database.read() as session:
            return events.of(session, found.id, limit=limit)

    def logs(
        self,
        id: str,
        limit: int = 300,
        level: str | None = None,
        after_id: int | None = None,
    ) -> Sequence[LogLine]:
        """The newest lines (or those after `after_id`), oldest first."""
        with self.database.read() as session:
            return log_lines.tail(session, id, limit=limit, level=level, after_id=after_id)

    def search_logs(
        self, text: str, id: str | None = None, level: str | None = None, limit: int = 300
    ) -> Sequence[LogLine]:
        with self.database.read() as session:
            return log_lines.search(session, text, deployment_id=id, level=level, limit=limit)

    def new_logs(
        self,
        id: str,
        *,
        text: str = "",
        level: str | None = None,
        after_id: int | None = None,
        limit: int = 300,
    ) -> tuple[Sequence[LogLine], int]:
        """The newest lines with these words (or those after `after_id`), oldest first, and the
        newest id that was looked at, which is `after_id` of the next call.

        The first step of a search asks the database's index; later ones look at what came since.
        """
        if text.strip() and after_id is None:
            newest = self.logs(id, limit=1)
            found = self.search_logs(text, id=id, level=level, limit=limit)
            return found[::-1], newest[-1].id if newest else 0
        lines = self.logs(id, limit=limit, level=level, after_id=after_id)
        words = text.casefold().split()
        wanted = [line for line in lines if all(word in line.text.casefold() for word in words)]
        return wanted, lines[-1].id if lines else after_id or 0

    def log_count(self, id: str, level: str | None = None) -> int:
        with self.database.read() as session:
            return log_lines.count(session, id, level=level)

    def all_logs(self, id: str) -> Iterator[LogLine]:
        """Every line, oldest first, for a download; no session is open between two chunks."""
        last_id = 0
        while True:
            with self.database.read() as session:
                chunk = log_lines.chunk(session, id, after_id=last_id)
            if not chunk:
                return
            yield from chunk
            last_id = chunk[-1].id

    def typical_durations(self, source_text: str) -> Mapping[StageName, float]:
        """Seconds that each stage usually took for this source; empty before the first start."""
        with self.database.read() as session:
            return stages.typical_durations(session, source_text)

    def supervisor_alive(self) -> bool:
        """Whether somebody acts on what is asked for."""
        seen = self.supervisor()
        silent = timedelta(seconds=SUPERVISOR_SILENT_S)
        return seen is not None and utc_now() - seen.beat_at < silent

    def supervisor(self) -> Supervisor | None:
        with self.database.read() as session:
            return supervisors.last(session)

    # --- talking to an engine -----------------------------------------------------------------

    def api_key(self, deployment: Deployment) -> str:
        """The key that this deployment's engine asks for. Raises NotFound where it is gone."""
        path = deployment.api_key_file
        try:
            return Path(path or "").read_text().strip()
        except OSError as error:
            raise NotFound(
                f"The API key of {deployment.id} cannot be read: {error}.",
                fix="Redeploy it; a new key is made then.",
            ) from error

    def client(self, deployment: Deployment) -> EngineClient:
        """A client with the deployment's key. Raises ServerUnreachable where nothing listens."""
        if deployment.endpoint is None:
            raise ServerUnreachable(
                f"{deployment.id} is {deployment.state} and has no address.",
                fix=f"See `autoglm show {deployment.id}`.",
            )
        key = self.api_key(deployment)
        return EngineClient(deployment.endpoint, key, model=deployment.plan["name"])

    def chats(self, limit: int = 50) -> Sequence[Chat]:
        with self.database.read() as session:
            return chats.recent(session, limit)

    def chat(self, id: str) -> Chat:
        with self.database.read() as session:
            try:
                return chats.get(session, id)
            except NoSuchRow as error:
                raise NotFound(error.message) from error

    def new_chat(
        self, deployment_id: str | None, *, title: str = "", system_prompt: str = ""
    ) -> Chat:
        with self.database.begin() as session:
            return chats.create(
                session, deployment_id=deployment_id, title=title, system_prompt=system_prompt
            )

    def say(
        self, chat_id: str, role: str, content: str, figures: Mapping[str, Any] | None = None
    ) -> int:
        """Store one turn and give its id; `amend` it when more of it is known."""
        with self.database.begin() as session:
            return chats.add_message(
                session, chat_id, role, content, dict(figures) if figures else None
            )

    def amend(
        self, message_id: int, content: str, figures: Mapping[str, Any] | None = None
    ) -> None:
        with self.database.begin() as session:
            chats.set_message(session, message_id, content, dict(figures) if figures else None)

    # --- parts --------------------------------------------------------------------------------

    def _new_key_file(self) -> Path:
        path = self.settings.keys_path / f"{secrets.token_hex(8)}.key"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"sk-{secrets.token_urlsafe(32)}\n")
        return path
