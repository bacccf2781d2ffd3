"""A conversation beyond the context: the engine's refusal in the panel's words, with a cure."""

from __future__ import annotations

import pytest

from engine.api.sampling import room_after
from engine.errors import ContextLengthExceeded
from panel.client import ServerError
from panel.deployments import Panel
from panel.ui.chat.answer import Answering
from panel.ui.chat.figures import figure_badges
from panel.ui.chat.refusal import TOO_LONG, TooLong, too_long
from tests.ui import scenes
from tests.ui.look import OpenPage, button, words


def refusal(prompt: int, limit: int) -> str:
    with pytest.raises(ContextLengthExceeded) as error:
        room_after(prompt, max_seq_length=limit, param="messages")
    return str(error.value)


def test_the_engines_numbers_are_read() -> None:
    assert too_long(TOO_LONG, refusal(5000, 4096)) == TooLong(prompt=5000, limit=4096)
    assert too_long("server", refusal(5000, 4096)) is None


@pytest.mark.parametrize(("prompt", "context"), [(4100, 8192), (9000, 16384)])
def test_the_context_is_doubled_until_the_conversation_fits(prompt: int, context: int) -> None:
    assert TooLong(prompt=prompt, limit=4096).longer_context == context


def test_a_refusal_is_no_broken_off_answer() -> None:
    answering = Answering(lambda text, figures: None)
    answering.fail(ServerError(refusal(5000, 4096), status=400, reason=TOO_LONG))
    assert answering.figures["code"] == TOO_LONG
    assert figure_badges(answering.figures) == []


def test_the_playground_offers_to_redeploy_with_a_longer_context(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.ready(panel_here)
    chat = panel_here.new_chat(deployment.id)
    panel_here.say(chat.id, "user", "long")
    told = {"code": TOO_LONG, "error": refusal(5000, 4096), "fix": "", "finish_reason": "refused"}
    message_id = panel_here.say(chat.id, "assistant", "", told)
    page = open_page("playground", chat=chat.id)
    assert "5,000 tokens; the context length of this deployment is 4,096" in words(page)
    assert button(page, f"longer_{message_id}").label == "Redeploy with a context of 8,192"
