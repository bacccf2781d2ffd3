"""The tables: what was wanted, what was seen, and everything that was said on the way.

A *deployment* is what a person asked for; an *attempt* is one start of it; a *stage* is one step
of an attempt; *events* are what the supervisor decided; *log lines* are what programs printed.
All times are UTC. Rows are read and written only through the repositories beside this file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    TypeDecorator,
    and_,
    func,
    select,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    aliased,
    foreign,
    mapped_column,
    relationship,
    remote,
)


class Desired(StrEnum):
    """What the person asked for."""

    RUNNING = "running"
    STOPPED = "stopped"


class State(StrEnum):
    """What the supervisor last saw of a deployment."""

    PENDING = "pending"  # asked for, nothing done yet
    PREPARING = "preparing"  # preflight, download, conversion
    STARTING = "starting"  # the engine's process is up, not ready
    READY = "ready"  # tokens advance
    UNHEALTHY = "unhealthy"  # was ready, does not answer now
    BACKOFF = "backoff"  # ended by itself, waits for the next attempt
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"  # given up; the last attempt's cause says why

    @property
    def is_final(self) -> bool:
        return self in (State.STOPPED, State.FAILED)


class StageName(StrEnum):
    """The steps of one attempt, in order."""

    PREFLIGHT = "preflight"
    DOWNLOAD = "download"
    START = "start"
    LOAD = "load"
    WARM_UP = "warm_up"
    FIRST_TOKEN = "first_token"


class StageStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class Outcome(StrEnum):
    """How an attempt ended."""

    STOPPED = "stopped"  # as asked
    FAILED = "failed"  # before it was ready
    CRASHED = "crashed"  # after it was ready


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored as UTC. SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, f"a time without a zone: {value!r}"
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


def _word(states: type[StrEnum]) -> Enum:
    """A column of the enum's values ("ready"), as text: a new state needs no migration."""
    return Enum(
        states, values_callable=lambda e: [m.value for m in e], native_enum=False, length=16
    )


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own form
        dict[str, Any]: JSON(none_as_null=True),
        float: Double,
        datetime: UtcDateTime,
        **{e: _word(e) for e in (Desired, State, StageName, StageStatus, Outcome)},
    }


class Machine(Base):
    """One machine as it was detected; a change of hardware or driver makes a new row."""

    __tablename__ = "machines"

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(unique=True)  # hash of the facts that matter
    hostname: Mapped[str]
    facts: Mapped[dict[str, Any]]  # panel.hardware.machine.Machine as JSON
    first_seen_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_seen_at: Mapped[datetime] = mapped_column(default=utc_now)


class Deployment(Base):
    """What a person asked for, and what was last seen of it."""

    __tablename__ = "deployments"

    id: Mapped[str] = mapped_column(primary_key=True)  # short and speakable: "d-7k3m9q"
    name: Mapped[str]  # the model's name in the API and in the panel
    plan: Mapped[dict[str, Any]]  # panel.runtimes.Plan as JSON: source, runtime, target, options
    machine_id: Mapped[int | None] = mapped_column(ForeignKey("machines.id"))
    predicted: Mapped[dict[str, Any] | None]  # panel.sizing.Fit as JSON, at the time of asking
    desired: Mapped[Desired] = mapped_column(index=True)
    state: Mapped[State] = mapped_column(default=State.PENDING, index=True)
    endpoint: Mapped[str | None]  # "http://127.0.0.1:8080" while an attempt listens
    api_key_file: Mapped[str | None]  # where the key lies; the key itself is never stored here
    restarts: Mapped[int] = mapped_column(default=0)  # since the last time it was ready for long
    next_attempt_at: Mapped[datetime | None]  # back-off: not before
    note: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)

    attempts: Mapped[list[Attempt]] = relationship(
        back_populates="deployment", order_by="Attempt.number", cascade="all, delete-orphan"
    )
    last_attempt: Mapped[Attempt | None] = relationship(
        primaryjoin=lambda: _is_last_attempt(), viewonly=True
    )


class Attempt(Base):
    """One start of a deployment, with everything needed to explain or repeat it."""

    __tablename__ = "attempts"
    __table_args__ = (Index(None, "deployment_id", "number", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"))
    number: Mapped[int]  # 1, 2, … within the deployment
    argv: Mapped[dict[str, Any] | None]  # {"argv": [...], "env": {...}} exactly as started
    environment: Mapped[dict[str, Any] | None]  # packages, python, driver, commit
    pid: Mapped[int | None]
    pid_started_at: Mapped[float | None]  # psutil create_time: with the pid it names one process
    port: Mapped[int | None]
    log_path: Mapped[str | None]
    log_offset: Mapped[int] = mapped_column(default=0)  # bytes of log_path already in log_lines
    outcome: Mapped[Outcome | None]
    exit_code: Mapped[int | None]  # negative: ended by that signal; None: not known
    cause: Mapped[dict[str, Any] | None]  # {"code", "message", "fix", "evidence": [...]}
    measured: Mapped[dict[str, Any] | None]  # memory and first-token time once ready
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    ready_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    deployment: Mapped[Deployment] = relationship(back_populates="attempts")
    stages: Mapped[list[Stage]] = relationship(
        back_populates="attempt", order_by="Stage.position", cascade="all, delete-orphan"
    )


def _is_last_attempt() -> ColumnElement[bool]:
    """Joins a deployment with the attempt of the highest number."""
    other = aliased(Attempt.__table__)
    highest = (
        select(func.max(other.c.number))
        .where(other.c.deployment_id == Attempt.deployment_id)
        .correlate(Attempt)
        .scalar_subquery()
    )
    return and_(Deployment.id == foreign(remote(Attempt.deployment_id)), Attempt.number == highest)


class Stage(Base):
    """One step of an attempt, with its times."""

    __tablename__ = "stages"
    __table_args__ = (Index(None, "attempt_id", "name", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    name: Mapped[StageName]
    position: Mapped[int]
    status: Mapped[StageStatus] = mapped_column(default=StageStatus.PENDING)
    progress: Mapped[float | None]  # 0 … 1 where it can be known
    detail: Mapped[str] = mapped_column(default="")  # "12 of 98 MB, 31 MB/s, 3 s left"
    deadline_s: Mapped[float]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    attempt: Mapped[Attempt] = relationship(back_populates="stages")

    @property
    def duration_s(self) -> float | None:
        if self.started_at is None:
            return None
        return ((self.ended_at or utc_now()) - self.started_at).total_seconds()


class Event(Base):
    """Something decided or asked for: who, when, what."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "deployment_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"))
    attempt_id: Mapped[int | None] = mapped_column(
        ForeignKey("attempts.id", ondelete="CASCADE"), index=True
    )
    at: Mapped[datetime] = mapped_column(default=utc_now)
    actor: Mapped[str]  # "supervisor", or the person's login name
    kind: Mapped[str]  # "asked", "state", "stage", "adopted", "restart", "gave_up", …
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]


class LogLine(Base):
    """One line that a program printed. The full-text index log_lines_fts is kept by triggers."""

    __tablename__ = "log_lines"
    __table_args__ = (Index(None, "deployment_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"))
    attempt_id: Mapped[int | None] = mapped_column(
        ForeignKey("attempts.id", ondelete="CASCADE"), index=True
    )
    at: Mapped[datetime]
    level: Mapped[str]  # "debug", "info", "warning", "error"
    source: Mapped[str]  # "prepare", "engine"
    text: Mapped[str]


class Chat(Base):
    """One conversation of the playground."""

    __tablename__ = "chats"

    id: Mapped[str] = mapped_column(primary_key=True)
    deployment_id: Mapped[str | None] = mapped_column(
        ForeignKey("deployments.id", ondelete="SET NULL"), index=True
    )
    title: Mapped[str] = mapped_column(default="")
    system_prompt: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)

    messages: Mapped[list[ChatMessage]] = relationship(
        back_populates="chat", order_by="ChatMessage.id", cascade="all, delete-orphan"
    )


class ChatMessage(Base):
    """One turn, with what was measured of it (ttft_s, tpot_s, tokens, finish_reason)."""

    __tablename__ = "chat_messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[str] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]  # "user", "assistant"
    content: Mapped[str]
    figures: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    chat: Mapped[Chat] = relationship(back_populates="messages")


class Supervisor(Base):
    """The one supervisor's sign of life, so that a page can say when nobody is acting."""

    __tablename__ = "supervisor"

    id: Mapped[int] = mapped_column(primary_key=True)  # always 1
    pid: Mapped[int]
    started_at: Mapped[datetime]
    beat_at: Mapped[datetime]
