"""What the site's pages do not hold themselves: the reference, and files of the repository."""

import html
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from typer.main import get_group

import robustkit
from robustkit.auditing.indicators import INDICATORS
from robustkit.cli.commands import app
from robustkit.shelves import list_names

ROOT = Path(__file__).parent.parent
PAGES = "docs/pages"
LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s#]+)")
"""a link or picture that climbs"""
LINKED = re.compile(r"\]\(([^)\s#:./][^)\s#:]*)")
"""a link or picture that stays in the folder"""
ASKS = re.compile(
    r"""<(?:script|img|iframe|source|video)[^>]*\ssrc(?:set)?=["']?(?:https?:)?//[^\s>]*"""
    r"""|<link[^>]*\shref=["']?(?:https?:)?//[^\s>]*|(?:url\(|@import)\s*["']?(?:https?:)?//[^\s)]*"""
    r"""|class="mermaid\""""
)
"""what a browser would fetch from elsewhere; a link that a reader follows is none"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and every file of the repository that a page links to."""
    for name, text in (("cli", _commands()), ("python", _names()), ("names", _shelves())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    linked = {place for page in files.documentation_pages() for place in _outside(page)}
    for name in sorted({one for place in linked for one in _with_company(place)}):
        source = str(ROOT / name)
        one = File.generated(config, f"repository/{name}", abs_src_path=source)
        one.inclusion = InclusionLevel.NOT_IN_NAV  # reached by the links that asked for it
        files.append(one)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository, which hold where it is read, hold on the site."""
    folder = str(Path(page.file.src_uri).parent)

    def moved(match: re.Match[str]) -> str:
        place = _place(folder, match[2])
        if place is None:
            return match[0]
        return match[1] + relpath(f"repository/{place}", folder)

    return LINK.sub(moved, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """No page asks another host for anything."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in {".html", ".css"} and (asked := ASKS.search(path.read_text("utf-8"))):
            raise PluginError(f"{path.relative_to(config.site_dir)} asks for {asked[0]}")


def _outside(page: File) -> Iterator[str]:
    folder = str(Path(page.src_uri).parent)
    for _, link in LINK.findall(page.content_string):
        if (place := _place(folder, link)) is None:
            continue
        if not (ROOT / place).is_file():
            raise PluginError(f"{page.src_uri} links to {link}, which is no file")
        yield place


def _place(folder: str, link: str) -> str | None:
    """Where in the repository a link of a page leads to; None where it stays among the pages."""
    place = normpath(f"{PAGES}/{folder}/{link}")
    return None if place.startswith(f"{PAGES}/") else place


def _with_company(place: str) -> Iterator[str]:
    """A published report's page links to its figures, tables and numbers; notes, to pictures."""
    yield place
    if place.endswith(".md"):
        folder = (ROOT / place).parent
        names = LINKED.findall((ROOT / place).read_text("utf-8"))
        yield from (str((folder / n).relative_to(ROOT)) for n in names if (folder / n).is_file())
    if place.endswith("/report.html"):
        folder = (ROOT / place).parent
        yield from (str(p.relative_to(ROOT)) for p in folder.rglob("*") if p.is_file())


def _commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    text = [
        "# Command line",
        "",
        "Every command takes `--debug`, and `--help` prints what is here.",
    ]
    with click.Context(get_group(app), info_name="robustkit") as root:
        for name, command in root.command.commands.items():  # type: ignore[attr-defined]
            context: Any = type(root)(command, info_name=name, parent=root)
            text += ["", f"## robustkit {name}", "", inspect.cleandoc(command.help), ""]
            usage = " ".join(command.collect_usage_pieces(context))
            text += ["```text", f"robustkit {name} {usage}", "```", ""]
            text += ["| argument or option | |", "| --- | --- |"]
            rows = (p.get_help_record(context) for p in command.get_params(context))
            text += [f"| {_code(row[0])} | {_cell(row[1])} |" for row in rows if row]
    return "\n".join(text)


def _code(text: str) -> str:
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _names() -> str:
    """The public names, in their order."""
    text = [
        "# Python",
        "",
        "What `import robustkit` offers. Names are imported when they are asked for, so that",
        "`import robustkit` costs nothing.",
        "",
    ]
    for name in dir(robustkit):
        found = getattr(robustkit, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            text += [f"## robustkit.{name}", "", f"::: {found.__module__}.{found.__qualname__}", ""]
        elif inspect.ismodule(found):
            text += [f"## robustkit.{name}", "", f"::: {found.__name__}", ""]
    return "\n".join(text)


def _shelves() -> str:
    """What `robustkit list` prints, and the indicators of an audit."""
    text = ["# Attacks, losses, models, data and reports", "", "What `robustkit list` prints.", ""]
    for what in ("attacks", "losses", "models", "data", "reports"):
        text += [f"## {what.capitalize()}", "", "| name | |", "| --- | --- |"]
        text += [
            f"| `{name}` | {_cell(title)} |" for name, title in list_names(what).titles.items()
        ]
        text += [""]
    text += ["## Indicators", "", "| name | asks | source |", "| --- | --- | --- |"]
    text += [f"| `{one.name}` | {_cell(one.title)} | {_cell(one.source)} |" for one in INDICATORS]
    return "\n".join(text)
