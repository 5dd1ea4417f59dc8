"""What the README and the guides promise: links that lead somewhere, commands that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/operations").glob("*.md"))
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "roles").glob("*/README.md"))]
# parts of others, or from before there is a fleet
NO_TASK = {"site", "new_fleet", "preflight"}
FOLDER = ROOT / "playbooks/files/new_fleet/README.md"

each_guide = pytest.mark.parametrize("guide", [*GUIDES, FOLDER], ids=lambda path: str(path.relative_to(ROOT)))


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> list[str]:
    """The lines of the guide that are typed, without what is said beside them."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    return [line.split(" #")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("ansible")]


@each_guide
def test_links_lead_somewhere(guide: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    for target in re.findall(r"\]\(([^)\s]+)\)", guide.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _hash, anchor = target.partition("#")
        path = (guide.parent / name).resolve() if name else guide
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


@each_guide
def test_commands_are_there(guide: Path) -> None:
    """Playbooks and modules under their names, and variables that somebody reads."""
    roles = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"))
    for command in commands(guide.read_text(encoding="utf-8")):
        source = roles
        for name in re.findall(r"^ansible-playbook (?:gpufleet\.ollama\.)?([\w/]+)", command):
            path = ROOT / f"playbooks/{name.removesuffix('.yml').removeprefix('playbooks/')}.yml"
            assert path.is_file(), command
            source += path.read_text(encoding="utf-8")
        for name in re.findall(r"-m gpufleet\.ollama\.(\w+)", command):
            assert (ROOT / f"plugins/modules/{name}.py").is_file(), command
        for name in re.findall(r"(?:-e|--extra-vars) (\w+)=", command):
            assert re.search(rf"\b{name}\b", source), f"nobody reads {name}: {command}"


def test_every_operation_has_its_page() -> None:
    """Each page is in the index, and each playbook on a page."""
    index = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert f"(operations/{page.name})" in index, page.name
    typed = {name for page in PAGES for command in commands(page.read_text(encoding="utf-8")) for name in re.findall(r"gpufleet\.ollama\.(\w+)", command)}
    playbooks = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    assert playbooks - NO_TASK <= typed


def test_the_readme_lists_everything() -> None:
    """Each playbook, role and module."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in [*(ROOT / "playbooks").glob("*.yml"), *(ROOT / "plugins/modules").glob("*.py")]:
        assert re.search(rf"`(gpufleet\.ollama\.)?{path.stem}`", text), path.stem
    for path in (ROOT / "roles").iterdir():
        assert f"[{path.name}](roles/{path.name}/README.md)" in text, path.name


def test_commands_know_the_options() -> None:
    """A variable that nobody reads is found: this test's own proof."""
    assert commands("```\nansible-playbook gpufleet.ollama.lock -e nobody=1   # said\n```\n") == ["ansible-playbook gpufleet.ollama.lock -e nobody=1"]
    assert not re.search(r"\bnobody\b", yaml.safe_dump(yaml.safe_load((ROOT / "playbooks/lock.yml").read_text(encoding="utf-8"))))
