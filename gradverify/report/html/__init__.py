"""Reports as HTML: one file that needs nothing else, and fragments of it for notebooks.

No network, no libraries: style and script are inline, pictures are SVG, and everything that the
script adds (copy buttons, arrow keys in heat maps) is there without it in another form.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files as resources

import numpy as np

import gradverify
from gradverify.core.nouns import Finding
from gradverify.core.summarise.report import Report
from gradverify.report.html.finding import article
from gradverify.report.html.layer import section
from gradverify.report.html.markup import Markup, el, join
from gradverify.report.html.overview import overview
from gradverify.report.table import summary


def render_html(
    reports: Sequence[Report], files: Mapping[Finding, str] | None = None, when: datetime | None = None
) -> str:
    """A whole page: overview, then every layer with its findings.

    Parameters
    ----------
    files : for a finding, the path of its Case file, where one was written
    when : date and time on the page; None takes those of now
    """
    date = (when or datetime.now().astimezone()).strftime("%Y-%m-%d %H:%M %Z").strip()
    script, title = _asset("page.js"), summary(reports) if reports else "no layer was checked"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        el("title", f"gradverify: {title}"),
        el("style", Markup(_asset("page.css"))),
    )
    main = el(
        "main",
        el("h1", "Gradient report"),
        el("p", f"{title}, {date}", cls="lead"),
        overview(reports, "gv-"),
        *(section(report, files or {}, f"gv-{k}") for k, report in enumerate(reports)),
        id="gv-main",
        tabindex=-1,
    )
    body = el(
        "body",
        el("a", "Skip to the report", href="#gv-main", cls="skip"),
        main,
        el("footer", el("p", _versions(reports))),
        el("script", Markup(script)),
        cls="gradverify page",
    )
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def render_report(report: Report) -> str:
    """A fragment for notebooks: one layer, its findings and what was drawn."""
    return fragment(section(report, {}, _prefix(report), level=3), el("p", _versions([report]), cls="dim"))


def render_finding(finding: Finding) -> str:
    """A fragment for notebooks: one finding."""
    return fragment(article(finding, None, _prefix(finding), level=3))


def fragment(*parts: Markup) -> str:
    """Parts of a page with its style and script, to stand inside another page."""
    style, script = el("style", Markup(_asset("page.css"))), el("script", Markup(_asset("page.js")))
    return str(el("div", style, *parts, script, cls="gradverify"))


def _prefix(noun: object) -> str:
    """Start of the ids of a fragment; a notebook shows several fragments on one page."""
    return f"gv-{id(noun):x}"


def _versions(reports: Sequence[Report]) -> Markup:
    seeds = sorted({report.seed for report in reports if report.seed is not None})
    said = [
        f"gradverify {gradverify.__version__}",
        f"Python {platform.python_version()}",
        f"NumPy {np.__version__}",
        *([f"seed {', '.join(map(str, seeds))}"] if seeds else []),
    ]
    return join(" · ".join(said))


def _policy(script: str) -> str:
    """Nothing may be loaded, and no script may run but the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _asset(name: str) -> str:
    return resources(__name__).joinpath(name).read_text(encoding="utf-8")
