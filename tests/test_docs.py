"""The pages: short, all listed, and without a link or a path that leads nowhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACES = ("*.md", "docs/**/*.md", "tests/**/*.md", "notebooks/**/*.md")
PAGES = sorted(str(path.relative_to(ROOT)) for place in PLACES for path in ROOT.glob(place))


def prose(page: str) -> str:
    """Without blocks of code and code within lines."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / page).read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    dead = []
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_the_files_that_a_page_names_are_there(page):
    """A path from the project's folder, or the name of a file after one, in the same folder."""
    missing, folder = [], ROOT
    for name in re.findall(r"`([\w/.-]+\.(?:py|sh|md|yaml|json)|[\w/.-]+/)`", (ROOT / page).read_text()):
        places = [ROOT / name, ROOT / "denoised_mdp" / name, folder / name, folder.parent / name]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            missing.append(name)
        else:
            folder = found if found.is_dir() else found.parent
    assert not missing


def test_one_page_lists_all_others():
    listed = {(ROOT / "docs" / link).resolve() for link in LINK.findall(prose("docs/README.md"))}
    # Deeper folders hold the results of single runs, with pages that commands wrote.
    pages = {(ROOT / page).resolve() for page in PAGES if page.startswith("docs/") and page.count("/") <= 2}
    assert pages - {ROOT / "docs" / "README.md"} <= listed


def test_the_readme_is_read_in_one_go():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
