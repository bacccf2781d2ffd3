"""The list of models: the best for this machine, the offered ones, and one's own."""

from __future__ import annotations

import streamlit as st

from panel.deployments import Sizing
from panel.errors import PanelError
from panel.models.catalog import Entry, Tier
from panel.sizing.fit import Fit, Precision
from panel.sizing.recommend import recommend
from panel.ui.i18n import N_, _, language
from panel.ui.opened import opened_panel
from panel.ui.sentences import in_words
from panel.ui.setup.choice import DEFAULT_MODEL, Choice
from panel.ui.wording import VERDICTS, badge, billions, gib, short_precision, tokens

HEAD = (3, 1)
"""Shares of a row's title and its button, which so stands at the same place in every row."""

TIERS = {Tier.SMALL: N_("7B class"), Tier.LARGE: N_("13B class")}


def draw(choice: Choice, sizing: Sizing | None) -> None:
    draw_own(choice)
    draw_best(choice)
    entries = opened_panel().catalog()
    offered = {str(entry.source) for entry in entries}
    if sizing and choice.model not in offered:
        draw_sized(choice, sizing)
    for entry in entries:
        if entry.tier is Tier.DEMO:
            draw_entry(choice, entry)
    tier = draw_tier(next((e.tier for e in entries if str(e.source) == choice.model), None))
    for entry in entries:
        if entry.tier is tier:
            draw_entry(choice, entry)


def draw_tier(of_chosen: Tier | None) -> Tier:
    """Which class is listed: at first that of the chosen model."""
    chosen = st.segmented_control(
        _("Size class"),
        list(TIERS),
        default=of_chosen if of_chosen in TIERS else Tier.SMALL,
        format_func=lambda tier: _(TIERS[tier]),
        key="tier",
        required=True,
        label_visibility="collapsed",
        persist_state="session",
    )
    return chosen or Tier.SMALL


def draw_best(choice: Choice) -> None:
    found = recommend(opened_panel().machine(), choice.workload)
    if not found:
        return
    best = found[0]
    source = str(best.entry.source)
    with st.container(border=True):
        left, right = st.columns(HEAD, vertical_alignment="center")
        title = _("Best for this machine")
        name, precision = best.entry.name, short_precision(best.precision)
        left.markdown(f":blue[:material/auto_awesome:] {title}: **{name}** · {precision}")
        right.button(
            _("Use this"),
            key="use_best",
            on_click=choice.change,
            kwargs={"model": source, "precision": best.precision},
            disabled=choice.model == source and choice.precision in (None, best.precision),
            width="stretch",
        )


def recommended(choice: Choice) -> str:
    """What is chosen where nobody named a model."""
    found = recommend(opened_panel().machine(), choice.workload)
    return str(found[0].entry.source) if found else DEFAULT_MODEL


def draw_own(choice: Choice) -> None:
    key = "own_source"

    def chosen() -> None:
        text = (st.session_state[key] or "").strip()
        choice.change(model=text or recommended(choice), precision=None)

    offered = {str(entry.source) for entry in opened_panel().catalog()}
    st.session_state[key] = "" if choice.model in offered else choice.model
    st.text_input(
        _("Your own model"),
        key=key,
        icon=":material/folder_open:",
        placeholder=_("A folder, hf:org/name or ms:org/name"),
        on_change=chosen,
        label_visibility="collapsed",
    )


def draw_sized(choice: Choice, sizing: Sizing) -> None:
    """The row of a model that is not in the list; it is the chosen one."""
    with st.container(border=True, gap="xxsmall"):
        _head(choice.model, sizing.shape.name, [billions(sizing.shape.num_params)], choice)
        draw_fits(sizing.fits, choice.model, choice)


def draw_entry(choice: Choice, entry: Entry) -> None:
    source = str(entry.source)
    facts = [billions(entry.num_params), tokens(entry.context_tokens), entry.licence]
    if entry.gated:
        facts.append(_("needs an account"))
    with st.container(border=True, gap="xxsmall"):
        _head(source, entry.name, facts, choice)
        st.caption(entry.description.get(language(), entry.description["en"]))
        try:
            fits = opened_panel().size(source, workload=choice.workload).fits
        except PanelError as error:
            st.caption(f":material/error: {in_words(error.message)}")
        else:
            draw_fits(fits, source, choice)


def _head(source: str, name: str, facts: list[str], choice: Choice) -> None:
    is_chosen = source == choice.model
    selected = _("Selected")
    left, right = st.columns(HEAD, vertical_alignment="center")
    left.markdown(f"**{name}** &nbsp; :small[{' · '.join(facts)}]")
    right.button(
        f":blue[{selected}]" if is_chosen else _("Select"),
        key=f"select_{source}",
        type="tertiary" if is_chosen else "secondary",
        icon=":material/check_circle:" if is_chosen else None,
        on_click=choice.change,
        kwargs={"model": source, "precision": None},
        width="stretch",
    )


def draw_fits(fits: dict[Precision, Fit], source: str, choice: Choice) -> None:
    """One badge for each precision: whether it fits, and what it takes."""
    with st.container(horizontal=True, gap="xsmall"):
        for precision, fit in fits.items():
            word = VERDICTS[fit.verdict]
            spare = gib(abs(fit.headroom_bytes))
            over = _("{verdict}: {size} too much", verdict=_(word.text), size=spare)
            left = _("{verdict}: {size} to spare", verdict=_(word.text), size=spare)
            badge(
                word,
                f"{short_precision(precision)} · {gib(fit.total_bytes)}",
                help=over if fit.headroom_bytes < 0 else left,
            )
