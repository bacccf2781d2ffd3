"""Chats: the playground's conversations, kept when the deployment they were held with is gone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from db.errors import NoSuchRow
from db.models import Chat, ChatMessage, utc_now


def create(
    s: Session, *, deployment_id: str | None, title: str = "", system_prompt: str = ""
) -> Chat:
    """A new chat, its (empty) messages loaded."""
    chat = Chat(
        id=f"c-{secrets.token_hex(6)}",
        deployment_id=deployment_id,
        title=title,
        system_prompt=system_prompt,
        messages=[],
    )
    s.add(chat)
    s.flush()
    return chat


def get(s: Session, chat_id: str) -> Chat:
    """One chat with its messages loaded."""
    query = select(Chat).where(Chat.id == chat_id).options(selectinload(Chat.messages))
    return _found(s.scalar(query), chat_id)


def recent(s: Session, limit: int = 50) -> Sequence[Chat]:
    """The chats that were used last, newest first, without their messages."""
    return s.scalars(select(Chat).order_by(Chat.updated_at.desc(), Chat.id).limit(limit)).all()


def add_message(
    s: Session, chat_id: str, role: str, content: str, figures: dict[str, Any] | None = None
) -> int:
    """Append a turn; gives its id."""
    _row(s, chat_id).updated_at = utc_now()
    message = ChatMessage(chat_id=chat_id, role=role, content=content, figures=figures)
    s.add(message)
    s.flush()
    return message.id


def set_message(
    s: Session, message_id: int, content: str, figures: dict[str, Any] | None = None
) -> None:
    """Replace a turn's text and figures, as when an answer has arrived in full."""
    message = s.get(ChatMessage, message_id)
    if message is None:
        raise NoSuchRow(f"No message has the id {message_id}.")
    message.content, message.figures = content, figures
    s.flush()


def retitle(s: Session, chat_id: str, title: str) -> None:
    _row(s, chat_id).title = title
    s.flush()


def delete(s: Session, chat_id: str) -> None:
    """Remove a chat with its messages."""
    _row(s, chat_id)
    s.execute(sql_delete(Chat).where(Chat.id == chat_id))
    s.expire_all()


def _row(s: Session, chat_id: str) -> Chat:
    return _found(s.get(Chat, chat_id), chat_id)


def _found(chat: Chat | None, chat_id: str) -> Chat:
    if chat is None:
        raise NoSuchRow(f"No chat has the id {chat_id!r}.", "It may have been deleted.")
    return chat
