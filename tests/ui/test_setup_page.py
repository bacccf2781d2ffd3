"""The wizard: hardware, sizing with its fixes, launch with its stages and failures, ready."""

from __future__ import annotations

import pytest

from db.models import Desired
from panel.deployments import Panel
from panel.hardware.machine import Machine
from panel.models.catalog import Tier
from panel.sizing.recommend import least_memory
from panel.sizing.workload import Workload
from panel.ui.setup.choice import OPTIONS
from tests.ui import scenes
from tests.ui.look import OpenPage, asked, button, has_button, words

BIG = "Qwen/Qwen2.5-7B-Instruct"


def test_a_machine_without_a_gpu_is_told_that_models_run_on_its_processor(
    open_page: OpenPage,
) -> None:
    page = open_page()
    assert page.title[0].value == "Set up a model server"
    assert "There is no NVIDIA GPU" in words(page)


def test_the_page_says_plainly_that_no_supervisor_runs_and_how_to_start_it(
    open_page: OpenPage,
) -> None:
    page = open_page()
    assert page.warning[0].value == "Nothing starts or stops until it runs."
    assert any(code.value == "autoglm supervise" for code in page.code)


def test_a_running_supervisor_ends_the_warning(open_page: OpenPage, panel_here: Panel) -> None:
    scenes.supervisor_beats(panel_here)
    assert not open_page().warning


def test_the_demo_model_is_chosen_at_first_and_its_command_is_in_view(open_page: OpenPage) -> None:
    page = open_page(step="model")
    assert any("autoglm launch demo" in code.value for code in page.code)
    assert not button(page, "launch").disabled


def test_a_model_that_is_too_large_cannot_be_launched_by_the_main_button(
    open_page: OpenPage,
) -> None:
    page = open_page(step="model", model=f"hf:{BIG}", precision="float32")
    assert button(page, "launch").disabled
    assert "too much" in page.error[0].value
    assert has_button(page, "force")


def test_the_offered_precision_makes_it_fit(open_page: OpenPage) -> None:
    page = open_page(step="model", model=f"hf:{BIG}", precision="float32")
    button(page, "fix_precision").click().run()
    assert not page.error
    assert not button(page, "launch").disabled


def test_halving_the_context_is_written_into_the_address(open_page: OpenPage) -> None:
    page = open_page(step="model", model=f"hf:{BIG}", precision="float32", context="8192")
    button(page, "fix_context").click().run()
    assert asked(page, "context") == "4096"


def test_start_anyway_launches_what_the_sizing_advises_against(
    open_page: OpenPage, panel_here: Panel
) -> None:
    page = open_page(step="model", model=f"hf:{BIG}", precision="float32")
    button(page, "force").click().run()
    (deployment,) = panel_here.deployments()
    assert asked(page, "deployment") == deployment.id


def test_an_option_is_changed_by_a_widget_derived_from_its_row_and_taken_out_by_its_default(
    open_page: OpenPage,
) -> None:
    page = open_page(step="model")
    page.number_input(key="option_block_size").set_value(32).run()
    assert asked(page, "option") == "block_size=32"
    assert "block_size=32" in words(page)
    page.number_input(key="option_block_size").set_value(64).run()
    assert "option" not in page.query_params


def test_every_option_of_the_engine_that_a_plan_leaves_open_has_a_widget(
    open_page: OpenPage,
) -> None:
    page = open_page(step="model")
    kinds = (page.number_input, page.toggle, page.selectbox, page.text_input)
    keys = {widget.key for kind in kinds for widget in kind}
    assert {f"option_{name}" for name in OPTIONS} <= keys


def test_an_unknown_model_is_explained_and_cannot_be_launched(open_page: OpenPage) -> None:
    page = open_page(step="model", model="/no/such/folder")
    assert page.error
    assert button(page, "launch").disabled


def test_launch_stores_the_deployment_and_shows_its_stages(
    open_page: OpenPage, panel_here: Panel
) -> None:
    page = open_page(step="model")
    button(page, "launch").click().run()
    (deployment,) = panel_here.deployments()
    assert asked(page, "deployment") == deployment.id
    assert asked(page, "step") == "launch"
    assert any(status.label == "Waiting for the supervisor" for status in page.status)


def test_an_option_of_the_address_is_part_of_the_launched_plan(
    open_page: OpenPage, panel_here: Panel
) -> None:
    page = open_page(step="model", option=["block_size=32", "no_such_option=1"])
    button(page, "launch").click().run()
    (deployment,) = panel_here.deployments()
    assert deployment.plan["options"] == {"block_size": 32}


def test_a_running_stage_shows_its_progress_in_words(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.starting(panel_here)
    page = open_page(step="launch", deployment=deployment.id)
    labels = {status.label: status.state for status in page.status}
    (running,) = (label for label, state in labels.items() if state == "running")
    assert "Load the weights" in running
    assert any("layer 19 of 20" in code.value for code in page.code)


def test_stop_during_the_start_asks_the_supervisor_to_end_it(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.starting(panel_here)
    page = open_page(step="launch", deployment=deployment.id)
    button(page, "stop").click().run()
    assert panel_here.deployment(deployment.id).desired is Desired.STOPPED


def test_a_failed_start_shows_cause_fix_and_evidence(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.failed(panel_here)
    page = open_page(step="launch", deployment=deployment.id)
    assert page.error[0].value == "The model needs 15.2 GiB; GPU 0 has 11.8 GiB free."
    assert "Choose int8" in words(page)
    assert "CUDA out of memory" in words(page)


def test_try_again_asks_for_a_new_deployment_of_the_same_plan(
    open_page: OpenPage, panel_here: Panel
) -> None:
    old = scenes.failed(panel_here)
    page = open_page(step="launch", deployment=old.id)
    button(page, "again_setup").click().run()
    new_id = asked(page, "deployment")
    assert new_id != old.id
    assert panel_here.deployment(new_id).plan == old.plan


def test_a_stopped_deployment_offers_another_and_not_the_same_again(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.stopped(panel_here)
    page = open_page(step="launch", deployment=deployment.id)
    assert not has_button(page, "again_setup")
    assert "You may close this page" not in words(page)
    button(page, "another").click().run()
    assert asked(page, "step") == "model"
    assert "deployment" not in page.query_params


def test_coming_back_after_a_stop_begins_with_the_model(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.stopped(panel_here)
    page = open_page(step="launch", deployment=deployment.id)
    for name in ("step", "deployment"):
        del page.query_params[name]
    page.run()
    assert asked(page, "step") == "model"
    assert "deployment" not in page.query_params


def test_an_emptied_model_field_chooses_the_recommended_model(open_page: OpenPage) -> None:
    page = open_page(step="model", model="/no/such/folder")
    page.text_input(key="own_source").set_value("").run()
    assert not page.error
    assert not button(page, "launch").disabled


def test_what_a_7b_model_needs_is_what_the_sizing_says(open_page: OpenPage) -> None:
    least = least_memory(scenes.LAPTOP, Tier.SMALL, Workload())
    assert f"{least.total_bytes / 2**30:.1f} GiB or more" in words(open_page())


def test_a_port_in_use_offers_a_free_one(open_page: OpenPage, panel_here: Panel) -> None:
    cause = {"code": "port_in_use", "message": "Port 8080 is in use.", "fix": "Choose another."}
    deployment = scenes.failed(panel_here, cause=cause)
    page = open_page(step="launch", deployment=deployment.id)
    assert has_button(page, "free_port_setup")


def test_a_ready_deployment_shows_its_address_and_keeps_the_key_until_asked(
    open_page: OpenPage, panel_here: Panel
) -> None:
    deployment = scenes.ready(panel_here)
    page = open_page(step="launch", deployment=deployment.id)
    assert asked(page, "step") == "ready"
    key = panel_here.api_key(deployment)
    assert key not in words(page)
    page.toggle(key=f"reveal_{deployment.id}").set_value(True).run()
    assert key in words(page)


def test_a_deployment_that_does_not_exist_is_said_so(open_page: OpenPage) -> None:
    page = open_page(step="launch", deployment="d-nowhere")
    assert "d-nowhere" in page.error[0].value


class TestOnAServerWithAGpu:
    @pytest.fixture
    def machine(self) -> Machine:
        return scenes.SERVER

    def test_a_7b_model_in_bfloat16_does_not_fit_a_16_gb_card(self, open_page: OpenPage) -> None:
        page = open_page(step="model", model=f"hf:{BIG}", precision="bfloat16")
        assert button(page, "launch").disabled
        assert button(page, "fix_precision").label in ("Use int8", "Use int4")
