"""The page of an audit in a headless Chromium, at the width of a phone and of a desk. The browser is in a container without a network."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".venv/collections"), str(ROOT / "tests/unit/plugins")]

import audit_fleet  # noqa: E402

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _audit_report  # noqa: E402

IMAGE = "gpufleet-browser:13"
# built once: the engine keeps the layer for as long as the image of the hosts stays the same
BUILD = """\
FROM gpufleet-host:13
RUN apt-get update -qq \\
 && apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-liberation fonts-dejavu-core >/dev/null \\
 && rm -rf /var/lib/apt/lists/*
"""
EVIL = "<script>console.error('evil')</script><img src=http://192.0.2.1/evil.png>"
# as a fleet of many hosts and models has
LONG = "registry.example.org/a-team/a-model-with-a-long-name-and-no-place-to-break:70b-instruct-q4_K_M"


def docker(*command: str, stdin: str | None = None) -> str:
    """Run docker."""
    done = subprocess.run(["docker", *command], input=stdin, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="session", name="look")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[str, Any]]:
    """Open a page; what came of it, and in C(files) where its pictures are."""
    docker("build", "-q", "-t", IMAGE, "-", stdin=BUILD)

    def look(name: str, page: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(name)
        (folder / "page.html").write_text(page, encoding="utf-8")
        container = docker("create", "--network", "none", IMAGE, "python3", "/look.py", "/page.html", "/srv").strip()
        try:
            docker("cp", str(ROOT / "tests/browser/look.py"), f"{container}:/look.py")
            docker("cp", str(folder / "page.html"), f"{container}:/page.html")
            answer = json.loads(docker("start", "-a", container).splitlines()[-1])
            docker("cp", f"{container}:/srv", str(folder / "files"))
        finally:
            docker("rm", "-f", container)
        return {**answer, "files": folder / "files"}

    return look


def report(checklist: bool = True) -> dict[str, Any]:
    """A fleet with what is hard on a page: hostile names, long ones, many hosts, rows of every verdict."""
    found = audit_fleet.data()
    facts = found["hosts"]["gpu1"]["facts"]
    facts["instances"][0]["models"][0]["name"] = EVIL
    facts["instances"][0]["models"][1]["name"] = LONG
    facts["instances"][0]["problem"] = EVIL
    facts["units"][0].update(restart=EVIL, memory_max="infinity")
    for number in range(12):
        found["hosts"][f"gpu{number + 10}.rack-7.example.org"] = audit_fleet.data()["hosts"]["gpu2"]
    end = found["now"]
    found["hosts"]["gw"]["facts"]["prometheus"]["plots"] = {
        "Requests per second": [
            {"labels": {"host": host}, "points": [[end - 86400 + step * 900, 2 + (step * (place + 3)) % 17] for step in range(97)]}
            for place, host in enumerate(("gw", EVIL))
        ],
        "Memory in use": [{"labels": {"host": "gpu1"}, "points": [[end, 0.5]]}],
    }
    return _audit_report.build(found, "Audit of the fleet", checklist)


@pytest.fixture(scope="module", name="seen", params=[True, False], ids=["audit", "status"])
def looked_at(request: pytest.FixtureRequest, look: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    """What came of the page of the audit, and of that of the status."""
    name = "audit" if request.param else "status"
    found = {**look(name, _audit_report.page(report(request.param))), "checklist": request.param}
    output = ROOT / "tests/output"
    output.mkdir(exist_ok=True)
    for path in found["files"].iterdir():
        shutil.copyfile(path, output / f"page-{name}-{path.name}")
    return found


def test_nothing_leaves_and_nothing_goes_wrong(seen: dict[str, Any]) -> None:
    """No request but for the page itself, and not a word on the console."""
    assert "file:///page.html" in seen["requests"] and set(seen["requests"]) <= {"file:///page.html", "data:,"}
    assert seen["messages"] == []


def test_pictures(seen: dict[str, Any]) -> None:
    """Of both widths, and the page is not wider than they are."""
    for width in ("390", "1280"):
        assert seen["widths"][width] == int(width)
        header = (seen["files"] / f"{width}.png").read_bytes()[:24]
        found_width, height = struct.unpack(">II", header[16:24])
        assert header[:8] == b"\x89PNG\r\n\x1a\n" and found_width == int(width) and height > 900


def test_accessibility_tree(seen: dict[str, Any]) -> None:
    """What a screen reader finds: landmarks, headings, tables that are tables on a phone too, pictures with names."""
    roles = [role for role, _name in seen["nodes"]]
    assert {"banner", "main", "contentinfo", "navigation", "heading", "table", "row", "columnheader", "rowheader", "cell"} <= set(roles)
    assert ("image", "Requests per second") in {(role.replace("img", "image"), name) for role, name in map(tuple, seen["nodes"])}
    headings = {name for role, name in seen["nodes"] if role == "heading"}
    assert {"Audit of the fleet", "Fleet", "Models", "Last day"} | ({"Checklist"} if seen["checklist"] else set()) <= headings


def test_paper(seen: dict[str, Any]) -> None:
    """It prints, with the evidence that is folded up on a screen."""
    assert (seen["files"] / "page.pdf").read_bytes()[:5] == b"%PDF-" and seen["printed"]


def test_a_bad_page_is_seen(look: Callable[[str, str], dict[str, Any]]) -> None:
    """The browser tells of requests, of errors and of a page that is too wide, so that the tests above can fail."""
    bad = look("bad", f"<!DOCTYPE html><title>x</title>{EVIL}<svg><path d='L1 1'/></svg><p style='width: 2000px'>x</p><details><div>x</div></details>")
    assert "http://192.0.2.1/evil.png" in bad["requests"]
    assert any("evil" in message for message in bad["messages"]) and any("moveto" in message for message in bad["messages"])
    assert bad["widths"]["390"] > 390 and not bad["printed"]
