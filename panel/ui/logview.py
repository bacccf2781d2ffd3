"""A log viewer: lines come from the server's event stream; only the rows in view are elements.

No rerun of a script, and nothing on Streamlit's own socket; 5,000 lines are about 30 elements. The
browser keeps the newest 20,000 lines; searching beyond them is the database's work (`?q=`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from streamlit.components import v2 as components

from panel.ui.i18n import _

_FOLDER = Path(__file__).parent / "static"
_HTML = """
<div class="wrap">
  <div class="bar"><span class="count" aria-live="off"></span>
    <span class="right"><button type="button" class="newest" hidden></button>
    <span class="live"></span></span></div>
  <div class="box" tabindex="0" role="log" aria-live="off">
    <div class="pad"><div class="rows"></div></div></div>
</div>
"""
_VIEW = components.component(
    "autoglm_logview",
    html=_HTML,
    css=(_FOLDER / "logview.css").read_text(),
    js=(_FOLDER / "logview.js").read_text(),
)


def stream_url(deployment_id: str, *, text: str = "", level: str | None = None) -> str:
    """Address of a deployment's newest or matching lines as server-sent events."""
    query = {name: value for name, value in (("q", text), ("level", level)) if value}
    return f"/api/deployments/{deployment_id}/logs" + (f"?{urlencode(query)}" if query else "")


def download_url(deployment_id: str) -> str:
    """Address of all kept lines as a text file."""
    return f"/api/deployments/{deployment_id}/logs.txt"


def logview(url: str, *, key: str, height: int = 420) -> None:
    """Show the lines of a log stream and follow it while the reader is at its end."""
    words: Mapping[str, str] = {
        "lines": _("{n} lines"),
        "live": _("live"),
        "ended": _("complete"),
        "waiting": _("connecting …"),
        "nothing": _("No lines"),
        "newest": _("Jump to the newest"),
        "name": _("Log"),
    }
    _VIEW(data={"url": url, "words": dict(words), "height": height}, key=key)
