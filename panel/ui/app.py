"""The panel in the browser: navigation, language, and whether a supervisor acts."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from panel.ui import i18n
from panel.ui.i18n import LANGUAGES, _, language
from panel.ui.opened import opened_panel
from panel.ui.problems import shown

HERE = Path(__file__).parent
STATIC = HERE / "static"  # absolute: Streamlit resolves pictures from the working directory


def pages() -> dict[str, list[st.Page]]:  # type: ignore[valid-type]  # st.Page is a class at run time
    def page(name: str, title: str, icon: str, *, default: bool = False) -> st.Page:  # type: ignore[valid-type]
        path = HERE / "views" / f"{name}.py"
        # The first page is at / and reserves one more name: leave /setup to `to_setup`.
        url_path = "first" if default else name
        return st.Page(
            path, title=title, icon=f":material/{icon}:", default=default, url_path=url_path
        )

    return {
        _("Deploy"): [
            page("setup", _("Set up"), "rocket_launch", default=True),
            page("deployments", _("Deployments"), "deployed_code_history"),
            st.Page(to_setup, title=_("Set up"), url_path="setup", visibility="hidden"),
        ],
        _("Use"): [page("playground", _("Playground"), "forum")],
    }


def to_setup() -> None:
    """/setup, as somebody may type it: the wizard's own address is /, being the first page."""
    st.switch_page("views/setup.py", query_params=st.query_params.to_dict())


def draw_language() -> None:
    key = "language_picked"
    st.session_state[key] = language()
    st.segmented_control(
        _("Language"),
        list(LANGUAGES),
        format_func=lambda name: LANGUAGES[name],
        key=key,
        required=True,
        label_visibility="collapsed",
        on_change=lambda: i18n.choose(st.session_state[key]),
    )


@st.fragment(run_every=5)
def draw_supervisor() -> None:
    """Say plainly when nobody would act on a click."""
    with shown():
        if opened_panel().supervisor_alive():
            st.badge(_("Supervisor running"), icon=":material/check_circle:", color="green")
            return
        st.warning(
            _("Nothing starts or stops until it runs."),
            title=_("No supervisor"),
            icon=":material/warning:",
        )
        st.code("autoglm supervise", language=None)


def main() -> None:
    st.set_page_config(
        page_title="Open-AutoGLM Panel", page_icon=str(STATIC / "icon.svg"), layout="wide"
    )
    i18n.keep_choice()
    theme = "dark" if st.context.theme.type == "dark" else "light"
    st.logo(str(STATIC / f"logo-{theme}.svg"), icon_image=str(STATIC / "icon.svg"), size="large")
    page = st.navigation(pages())
    with st.sidebar:
        draw_language()
        draw_supervisor()
        i18n.draw_memory()
    with shown():
        page.run()


main()
