"""The documentation site: every link leads somewhere, it opens on a phone, and it asks for nothing outside."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from ruamel.yaml import YAML

from tests.browser import AXE, Browser, browser, needs_axe, needs_browser
from tests.conftest import ROOT

MKDOCS = ROOT / ".venv" / "docs" / "bin" / "mkdocs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [
    "index.html",
    "result.html",
    "your-own-images.html",
    "architecture.html",
    "contributing.html",
    "api/rewards.html",
]
"""Those that are looked at in the browser: text, tables and pictures, commands, a drawing, code, docstrings."""

ASKS = re.compile(r"<(?:script|img|iframe|source|video|audio|embed|link)\b[^>]*?\b(?:src|href|data)=[\"']?([^\"' >]+)")

needs_mkdocs = pytest.mark.skipif(not MKDOCS.exists(), reason="no MkDocs: make setup-docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; a broken link, an anchor that is not there, or a page outside of `nav` is an error."""
    built = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", built],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module")
def texts(site: Path) -> dict[str, str]:
    """The pages by their path."""
    return {path.relative_to(site).as_posix(): path.read_text() for path in sorted(site.rglob("*.html"))}


@needs_mkdocs
def test_every_link_leads_to_a_page_and_a_place_on_it(site, texts):
    ids = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in texts.items()}
    checked = 0
    for page, text in texts.items():
        if page == "404.html":  # from the top of a server
            continue
        for address in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (site / page).parent / unquote(parts.path) if parts.path else site / page
            assert target.is_file(), (page, address)
            there = target.resolve().relative_to(site.resolve()).as_posix()
            if parts.fragment and there in ids:
                assert unquote(parts.fragment) in ids[there] | {"__comments"}, (page, address)
            checked += 1
    assert checked > 5000


@needs_mkdocs
def test_every_text_of_the_project_is_a_page(texts):
    for heading in re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert sum(f">{heading}<a" in text for text in texts.values()) == 1, heading
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= set(texts)
    kinds = ("dataset", "method", "reward", "claim", "task", "source", "trainer", "family", "world", "place")
    assert [kind for kind in kinds if not re.search(f'id="an?-{kind}"', texts["contributing.html"])] == []
    for room in (path.parent.name for path in (ROOT / "stages").glob("*/__init__.py")):
        assert f'id="stages.{room}"' in texts[f"api/{room}.html"]
    assert 'id="stages.rewards.length.reward"' in texts["api/rewards.html"]
    assert "&gt;&gt;&gt; " in re.sub(r"<[^>]+>", "", texts["api/rewards.html"]), "doctests are code"
    assert 'id="stages.train"' in texts["api/stages.html"]


@needs_mkdocs
def test_no_page_names_anything_outside_that_it_would_fetch(site, texts):
    outside = {(page, each) for page, text in texts.items() for each in ASKS.findall(text) if "://" in each}
    assert outside == set()
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*", styles) == []
    assert str(ROOT) not in "".join(texts.values())


@needs_mkdocs
def test_the_code_that_makes_the_pages_does_what_it_says():
    for name in ("pages", "doctests"):
        command = [MKDOCS.with_name("python"), "-m", "doctest", ROOT / "docs" / "site" / f"{name}.py"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.fixture(scope="module")
def tab() -> Browser:
    with browser() as found:
        yield found


@needs_mkdocs
@needs_browser
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_page_opens_without_errors_requests_or_sideways_scrolling(tab, site, page, width, dark):
    tab.open(site / page, width, 844, dark)
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("[...document.images].filter((each) => each.complete && !each.naturalWidth).length") == 0
    assert tab.run("getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'") is not dark


@needs_mkdocs
@needs_browser
def test_the_search_finds_without_a_server(tab, site):
    tab.open(site / "index.html")
    tab.run(
        "(() => { const field = document.querySelector('.md-search__input'); field.focus(); field.value = 'confusable';"
        " field.dispatchEvent(new Event('keyup', {bubbles: true})); field.dispatchEvent(new Event('input')); })()"
    )
    found = tab.run(
        "new Promise((resolve) => { const look = () => { const links = [...document.querySelectorAll("
        "'.md-search-result__link')].map((each) => each.href); links.length ? resolve(links) : setTimeout(look, 50); };"
        " look(); setTimeout(() => resolve([]), 20000); })"
    )
    assert any("api/tasks.html" in each for each in found)
    assert [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@needs_mkdocs
@needs_browser
@needs_axe
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)])
def test_axe_finds_nothing_serious(tab, site, page, width, dark):
    tab.open(site / page, width, 844, dark)
    tab.run(AXE.read_text() + "; true")
    found = tab.run(
        "axe.run().then((done) => done.violations.map((each) => [each.impact, each.id, each.nodes[0].html]))"
    )
    assert [each for each in found if each[0] in ("serious", "critical")] == []


def test_the_citation_is_one_by_its_schema():
    """What Citation File Format 1.2.0 requires, and which keys it knows; version and licence are the project's."""
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    known = {
        "abstract",
        "authors",
        "cff-version",
        "commit",
        "contact",
        "date-released",
        "doi",
        "identifiers",
        "keywords",
    }
    known |= {"license", "license-url", "message", "preferred-citation", "references", "repository", "title", "type"}
    known |= {"repository-artifact", "repository-code", "url", "version"}
    assert {"authors", "cff-version", "message", "title"} <= set(citation) <= known
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all(isinstance(citation[key], str) for key in set(citation) - {"authors", "keywords"})
    assert citation["authors"] == [{"name": f"The {PROJECT['name']} project"}]
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", text, re.MULTILINE)[1] == PROJECT["version"]
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {
        *("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    }


def test_continuous_integration_builds_the_site_last():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines[-1] == "make docs" and lines.index("make setup-docs") < lines.index("make test")
