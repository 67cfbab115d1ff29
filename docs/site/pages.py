"""Pages of the documentation site that are no files of docs/; MkDocs calls this (`hooks` of mkdocs.yml; `make docs`).

Every text stands in one place. The site's first pages are the sections of README.md; what README.md, CONTRIBUTING.md,
CHANGELOG.md and docs/ link to in the project is on the site too, tables and pictures as they are, code and settings as
pages; each room of `stages/` is a page of its docstrings. A link counts from the folder of the file that it is written
in, as on a code host, and is turned to the site's page.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

SECTIONS = {
    "index.md": "",
    "two-commands.md": "Two commands",
    "result.md": "What comes out",
    "one-number.md": "One number back",
    "change-one-thing.md": "Change one thing",
    "your-own-images.md": "Your own images",
    "papers-grid.md": "The paper's grid",
    "dag.md": "The DAG",
    "machines.md": "More than one machine",
    "measured.md": "Measured",
}
"""The pages that are sections of README.md, by heading; the first is what stands above all headings."""

WHOLE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages that are whole files outside of docs/."""

ENTRYPOINTS = "api/stages.md"

AS_THEY_ARE = {".md", ".png", ".svg", ".csv", ".json"}
"""Files that keep their path on the site; others, and folders, become a page under source/."""

LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def sections(text: str) -> dict[str, str]:
    r"""The sections of a Markdown text by heading, each as a page of its own: its headings are one level higher.

    >>> sections("# Top\n\nBegin.\n\n## One\n\nText.\n\n### More\n")
    {'': '# Top\n\nBegin.\n\n', 'One': '# One\n\nText.\n\n## More\n'}
    """
    first, *rest = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    found = {part.partition("\n")[0].removeprefix("## "): re.sub(r"^#(?=#+ )", "", part, flags=re.M) for part in rest}
    return {"": first} | found


def page_of(path: str) -> str:
    """Where the site has a file or folder of the project.

    >>> [page_of(path) for path in ("docs/tables.md", "stages/tasks/task.py", "grids/seeds/metrics/tables/claims.md")]
    ['tables.md', 'api/tasks.md#stages.tasks.task', 'grids/seeds/metrics/tables/claims.md']
    """
    whole = {file: page for page, file in WHOLE.items()} | {"README.md": "index.md"}
    if path in whole:
        return whole[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    top, *parts = Path(path).with_suffix("").parts
    if top == "stages" and (ROOT / path).suffix in ("", ".py"):
        page = f"api/{parts[0]}.md" if (ROOT / top / parts[0]).is_dir() else ENTRYPOINTS
        return f"{page}#{'.'.join((top, *parts))}" if path.endswith(".py") else page
    return path if Path(path).suffix in AS_THEY_ARE else f"source/{path}.md"


def file_of(page: str) -> str:
    """The file of the project that a page's text stands in.

    >>> [file_of(page) for page in ("result.md", "contributing.md", "tables.md", "metrics/tables/claims.md")]
    ['README.md', 'CONTRIBUTING.md', 'docs/tables.md', 'metrics/tables/claims.md']
    """
    if page in SECTIONS:
        return "README.md"
    return WHOLE.get(page) or (f"docs/{page}" if (ROOT / "docs" / page).is_file() else page)


def linked(path: str) -> Iterator[str]:
    """What a Markdown file of the project links to in it."""
    for target, _ in LINK.findall((ROOT / path).read_text(encoding="utf-8")):
        found = normpath(f"{dirname(path)}/{target}").lstrip("/")
        if (ROOT / found).exists():
            yield found


def reached() -> list[str]:
    """All that the site's texts link to, and what that links to, outside of docs/."""
    waiting = ["README.md", *WHOLE.values(), *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))]
    seen = set(waiting)
    for path in waiting:  # which grows
        new = [each for each in linked(path) if each not in seen]
        seen.update(new)
        waiting += [each for each in dict.fromkeys(new) if each.endswith(".md")]
    return sorted(path for path in seen if not path.startswith("docs/"))


def source(path: str) -> str:
    """A page with the text of a file, or of all files of a folder."""
    where = ROOT / path
    files = [where] if where.is_file() else sorted(file for file in where.iterdir() if file.is_file())
    parts = ["---", "search:", "  exclude: true", "---", "", f"# {path}", ""]
    for file in files:
        parts += [f"## {file.name}", ""] if len(files) > 1 else []
        parts += [
            f"~~~~~~~~ {file.suffix.removeprefix('.')}",
            file.read_text(encoding="utf-8").rstrip(),
            "~~~~~~~~",
            "",
        ]
    return "\n".join(parts)


def room(name: str) -> str:
    """The page of a room of `stages/`: what its docstring says, then its modules."""
    files = sorted((ROOT / "stages" / name).rglob("*.py"))
    modules = [".".join(file.relative_to(ROOT / "stages" / name).with_suffix("").parts) for file in files]
    modules = [module.removesuffix(".__init__") for module in modules if module != "__init__"]
    return f"# {name}\n\n::: stages.{name}\n\n" + "".join(api(f"stages.{name}.{each}", each) for each in modules)


def entrypoints() -> str:
    """The page of the stages' entrypoints."""
    names = [file.stem for file in sorted((ROOT / "stages").glob("[!_]*.py"))]
    return "# Stages\n\n" + "".join(api(f"stages.{name}", name) for name in names)


def api(module: str, heading: str) -> str:
    """What mkdocstrings takes for a module, with a heading."""
    options = {"show_root_heading": "true", "heading": heading, "toc_label": heading}
    return f"::: {module}\n    options:\n" + "".join(f"      {key}: {value}\n" for key, value in options.items()) + "\n"


def pages() -> dict[str, str]:
    """The texts of all pages that are made here, by their path on the site.

    Raises:
        PluginError: README.md has a section without a page, or none for a page.
    """
    readme = sections((ROOT / "README.md").read_text(encoding="utf-8"))
    if set(readme) != set(SECTIONS.values()):
        differing = ", ".join(sorted(set(readme) ^ set(SECTIONS.values())))
        raise PluginError(f"docs/site/pages.py: SECTIONS and the headings of README.md differ in: {differing}")
    made = {page: readme[heading] for page, heading in SECTIONS.items()}
    made |= {page: (ROOT / file).read_text(encoding="utf-8") for page, file in WHOLE.items()}
    rooms = sorted(path.parent.name for path in (ROOT / "stages").glob("*/__init__.py"))
    made |= {f"api/{name}.md": room(name) for name in rooms} | {ENTRYPOINTS: entrypoints()}
    for path in reached():
        page = page_of(path).partition("#")[0]
        if page.endswith(".md") and page not in made:
            made[page] = (ROOT / path).read_text(encoding="utf-8") if path.endswith(".md") else source(path)
    return made


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made here, and the pictures and data that texts link to."""
    for page, text in pages().items():
        files.append(File.generated(config, page, content=text))
    for path in reached():
        if not page_of(path).partition("#")[0].endswith(".md"):
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the project into links to pages; what is not there stays, for MkDocs to refuse."""
    here = page.file.src_uri

    def turned(link: re.Match[str]) -> str:
        target, anchor = link.groups(default="")
        path = normpath(f"{dirname(file_of(here))}/{target}").lstrip("/")
        if not (ROOT / path).exists():
            return link[0]
        there, _, inside = page_of(path).partition("#")
        return f"]({relpath(there, dirname(here) or '.')}{anchor or (inside and f'#{inside}')})"

    return LINK.sub(turned, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the keyboard reach what may be wider than the window, and so scrolls."""
    html = html.replace("<pre>", '<pre tabindex="0">')
    return re.sub(r"<table>.*?</table>", r'<div class="wide" tabindex="0">\g<0></div>', html, flags=re.DOTALL)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name the theme's dialog of the search, which has no name of its own."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
