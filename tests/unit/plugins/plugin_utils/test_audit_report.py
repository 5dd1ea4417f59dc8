"""What comes out of an audit: table, JSON, JUnit and the page. What hosts said is hostile."""

from __future__ import annotations

import html.parser
import json
import os
import re
import stat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from audit_fleet import data

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _audit, _audit_report

EVIL = '<script>alert(1)</script>"\'><img src=x onerror=alert(2)>\x1b[2J\x00{{ 7 * 7 }}'
VOID = {"meta", "link", "br", "img", "input", "hr"}


def report(checklist: bool = True, **change: Any) -> dict[str, Any]:
    """A report of the fleet that is well, or of one with a bad host and hostile names."""
    found = data()
    if change.get("evil"):
        facts = found["hosts"]["gpu1"]["facts"]
        facts["instances"][0]["models"][0]["name"] = EVIL
        facts["instances"][0]["absent"] = [EVIL]
        facts["units"][0].update(restart=EVIL, environment={"OLLAMA_DEBUG": EVIL})
        facts["disks"][0]["path"] = EVIL
        facts["gpu"]["gpus"][0]["name"] = EVIL
        facts["problems"][EVIL] = EVIL
        found["hosts"]["gpu2"].update(facts=None, problem=EVIL)
        prometheus = found["hosts"]["gw"]["facts"]["prometheus"]
        prometheus["plots"] = {EVIL: [{"labels": {"host": EVIL}, "points": [[found["now"], 1.0]]}]}
        prometheus["targets"][0].update(health="down", error=EVIL)
    return _audit_report.build(found, "Audit of the fleet", checklist)


class Page(html.parser.HTMLParser):
    """Elements with their attributes; open ones must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:  # pylint: disable=redefined-outer-name
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        """The attributes of the elements of these tags."""
        return [attrs for tag, attrs in self.elements if tag in tags]

    @property
    def text(self) -> str:
        """What one reads."""
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("evil", [False, True])
@pytest.mark.parametrize("checklist", [False, True])
def test_page_is_self_contained(evil: bool, checklist: bool) -> None:
    """No script, no handler, nothing to load, and a policy that forbids it; only links within the page."""
    text = _audit_report.page(report(checklist, evil=evil))
    page = Page(text)
    assert not page.all("script", "img", "iframe", "object", "embed", "form", "base", "audio", "video")
    for tag, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "srcset", "style", "action", "xlink:href")], (tag, attrs)
        if "href" in attrs:
            assert re.fullmatch(r"#[\w-]+|data:,", attrs["href"] or ""), (tag, attrs)
    policy = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert not re.search(r"@import|url\(", text)
    if evil:
        assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text


def test_page_is_accessible() -> None:
    """Language, landmarks, one main heading and no level left out, names for what scrolls, headers of tables, and a verdict in words."""
    page = Page(_audit_report.page(report(evil=True)))
    # each plot has a title, too
    assert page.all("html")[0]["lang"] == "en" and len(page.all("title")) == 1 + len(page.all("figure"))
    assert {tag: len(page.all(tag)) for tag in ("header", "main", "footer", "nav", "h1")} == dict.fromkeys(("header", "main", "footer", "nav", "h1"), 1)
    levels = [int(tag[1]) for tag, _attrs in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in zip(levels, levels[1:]))
    identities = [attrs["id"] for _tag, attrs in page.elements if "id" in attrs]
    assert len(identities) == len(set(identities))
    assert {attrs["href"] for attrs in page.all("a")} <= {f"#{identity}" for identity in identities}
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    assert all(attrs.get("aria-label") and attrs.get("tabindex") == "0" for _tag, attrs in page.elements if attrs.get("class") == "scroll")
    assert all(attrs.get("role") == "img" or attrs.get("aria-hidden") == "true" for attrs in page.all("svg"))
    assert "✗ fail" in page.text and "✓ pass" in page.text and "– n/a" in Page(_audit_report.page(report())).text
    assert [attrs["content"] for attrs in page.all("meta") if attrs.get("name") == "viewport"] == ["width=device-width, initial-scale=1"]


def test_text_has_contrast() -> None:
    """At least 4.5 to 1 on both grounds (WCAG 2, 1.4.3)."""
    def brightness(colour: str) -> float:
        parts = [int(colour[place:place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", _audit_report.page(report())))
    for name in ("ink", "soft", "good", "bad", "link"):
        for ground in ("#ffffff", colours["ground"]):
            assert (brightness(ground) + 0.05) / (brightness(colours[name]) + 0.05) >= 4.5, name


def test_what_is_on_the_page() -> None:
    """Hosts, models, GPUs, plots, and each row with its evidence; what failed is open, with the mend."""
    page = Page(_audit_report.page(report(evil=True)))
    assert "2 × NVIDIA H100, 80.0 GiB" in Page(_audit_report.page(report())).text
    assert "bot:latest" in page.text and "✗ missing" in page.text and "driver 580.95.05" in page.text
    assert len(page.all("details")) == len(_audit.ROWS)
    failed = {row["id"] for row in report(evil=True)["rows"] if row["verdict"] == "fail"}
    assert {attrs["id"] for attrs in page.all("details") if "open" in attrs} == failed and "restart-policy" in failed
    assert "Mend:" in page.text and len(page.all("figure")) == 1


def test_status_has_no_checklist() -> None:
    """The same page, without."""
    found = report(checklist=False)
    page = Page(_audit_report.page(found))
    assert not page.all("details") and "Checklist" not in page.text and "gpu1" in page.text and len(page.all("figure")) == 1
    assert found["rows"] == [] and len(_audit_report.table(found)) == 3


def test_junit() -> None:
    """Sums that are right, failures as the exit code counts them, and XML whatever the evidence holds."""
    found = report(evil=True)
    root = ElementTree.fromstring(_audit_report.junit(found).encode())
    cases = root.findall("./testsuite/testcase")
    assert root.tag == "testsuites" and len(cases) == len(_audit.ROWS) and len({case.get("name") for case in cases}) == len(cases)
    required = {row["id"] for row in found["rows"] if row["verdict"] == "fail" and row["priority"] == "required"}
    assert {case.get("name").partition(":")[0] for case in cases if case.find("failure") is not None} == required and len(required) > 2
    for suite in root:
        inside = suite.findall("testcase")
        assert int(suite.get("tests")) == len(inside)
        assert int(suite.get("failures")) == sum(case.find("failure") is not None for case in inside)
        assert int(suite.get("skipped")) == sum(case.find("skipped") is not None for case in inside)
    assert "alert(1)" in next(case.find("failure").text for case in cases if "restart-policy" in case.get("name"))


def test_table_is_safe_for_a_terminal() -> None:
    """A line for each row, evidence and mend under what failed, and no control characters."""
    lines = _audit_report.table(report(evil=True))
    assert not any(re.search(r"[\x00-\x1f\x7f-\x9f]", line) for line in lines)
    assert sum(line.startswith(("pass ", "FAIL ", "-    ")) for line in lines) == len(_audit.ROWS)
    place = next(number for number, line in enumerate(lines) if line.startswith("FAIL") and "restart-policy" in line)
    assert "gpu1 systemctl show ollama@default.service: Restart=" in lines[place + 1] and lines[place + 2].startswith("        mend: ")
    assert re.fullmatch(r"\d+ pass, \d+ fail \(\d+ of them required\), \d+ do not apply", lines[-1])


def test_much_evidence_is_cut() -> None:
    """For the terminal; the page has it all."""
    found = data()
    for name in range(20):
        found["hosts"][f"gpu9{name}"] = {**data()["hosts"]["gpu2"], "facts": None}
    lines = _audit_report.table(_audit_report.build(found, "x", True))
    assert "        and 15 more" in lines


def test_secrets_are_taken_out() -> None:
    """Wherever they are, in keys too; short words stay."""
    secret = "main-chain-test-key-0123456789abcdef"
    found = data()
    found["hosts"]["gpu1"]["facts"]["instances"][0]["problem"] = f"the server said {secret}"
    found["hosts"]["gpu1"]["facts"]["problems"] = {secret: "x"}
    clean = _audit_report.scrubbed(_audit_report.build(found, "x", True), [secret, "gpu1"])
    for text in (_audit_report.page(clean), json.dumps(clean), _audit_report.junit(clean), "\n".join(_audit_report.table(clean))):
        assert secret not in text and _audit_report.HIDDEN in text and "gpu1" in text
    assert _audit_report.scrubbed({"a": 1}, []) == {"a": 1}


def test_files_are_for_their_owner(tmp_path: Path) -> None:
    """The directory is made, the files replace older ones, and nothing else is left."""
    directory = tmp_path / "a/audit"
    paths = _audit_report.write(str(directory), "audit", report())
    assert _audit_report.write(str(directory), "audit", report()) == paths
    assert sorted(os.listdir(directory)) == ["audit.html", "audit.json", "audit.xml"] == sorted(os.path.basename(path) for path in paths)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(os.stat(path).st_mode) == 0o600 for path in paths)
    assert json.loads((directory / "audit.json").read_text(encoding="utf-8"))["summary"]["fail"] == 0
    assert sorted(_audit_report.write(str(directory), "status", report(False))) == [str(directory / "status.html"), str(directory / "status.json")]


def test_half_a_character_is_no_trouble(tmp_path: Path) -> None:
    """JSON of a host may hold half of a surrogate pair, which UTF-8 cannot."""
    found = data()
    found["hosts"]["gpu1"]["facts"]["disks"][0]["path"] = "\ud800"
    assert _audit_report.write(str(tmp_path), "audit", _audit_report.build(found, "x", True))
