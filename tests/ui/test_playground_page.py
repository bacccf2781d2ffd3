"""The playground: who answers, what is stored when, and what is said when nobody can answer."""

from __future__ import annotations

from panel.deployments import Panel
from tests.ui import scenes
from tests.ui.look import OpenPage, asked, has_button, words


def test_without_a_ready_deployment_it_offers_to_set_one_up(open_page: OpenPage) -> None:
    page = open_page("playground")
    assert "No deployment is ready" in words(page)
    assert has_button(page, "setup")
    assert not page.chat_input


def test_while_one_is_starting_it_offers_to_watch(open_page: OpenPage, panel_here: Panel) -> None:
    scenes.starting(panel_here)
    assert has_button(open_page("playground"), "watch")


def test_a_chat_of_the_address_is_restored_with_its_figures(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.ready(panel_here)
    chat = panel_here.new_chat(deployment.id)
    panel_here.say(chat.id, "user", "How fast?")
    figures = {"ttft_s": 0.182, "tpot_s": 0.0167, "completion_tokens": 40, "finish_reason": "stop"}
    panel_here.say(chat.id, "assistant", "Quite.", figures)
    page = open_page("playground", chat=chat.id)
    assert [message.name for message in page.chat_message] == ["user", "assistant"]
    assert "TTFT 182 ms" in words(page)
    assert "TPOT 16.7 ms" in words(page)


def test_the_question_is_kept_when_the_engine_does_not_answer(
    open_page: OpenPage, panel_here: Panel
) -> None:
    scenes.ready(panel_here)
    page = open_page("playground")
    page.chat_input[0].set_value("Anybody there?").run()
    assert "Nothing listens" in page.error[0].value
    (chat,) = panel_here.chats()
    question, reply = panel_here.chat(chat.id).messages
    assert question.content == "Anybody there?"
    assert reply.figures is not None
    assert reply.figures["finish_reason"] == "error"
    again = open_page("playground", chat=chat.id)
    assert again.error[0].value == page.error[0].value
    assert asked(page, "chat") == chat.id


def test_a_chat_that_is_gone_becomes_a_new_one(open_page: OpenPage, panel_here: Panel) -> None:
    scenes.ready(panel_here)
    page = open_page("playground", chat="c-gone")
    assert "Try your model" in words(page)


def test_a_chat_can_be_read_when_no_engine_runs(open_page: OpenPage, panel_here: Panel) -> None:
    chat = panel_here.new_chat(None)
    panel_here.say(chat.id, "user", "Remember this")
    page = open_page("playground", chat=chat.id)
    assert "Remember this" in words(page)
