"""The plots of an audit's page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _audit_plots as plots

END = 1_800_000_000.0
DAY = 86400
SVG = "{http://www.w3.org/2000/svg}"


def drawn(*series: dict, **more: bool) -> ElementTree.Element:
    """The SVG, which must be XML."""
    return ElementTree.fromstring(plots.plot("A <b>title</b> & more", series, END, DAY, **more)["svg"])


def line(values: list[float | None], step: float = 900, **labels: str) -> dict:
    """A series that ends now."""
    return {"labels": labels, "points": [[END - (len(values) - 1 - place) * step, value] for place, value in enumerate(values)]}


def test_nothing_to_show() -> None:
    """No series, none with points, and none with points that are numbers."""
    for series in ([], [line([])], [line([None, None])], [line([float("inf"), float("nan")])]):
        assert plots.plot("Title", series, END, DAY) is None


def test_says_in_words_what_it_shows() -> None:
    """For those who do not see it; labels are text, whatever is in them."""
    svg = drawn(line([1, 4, 2], host="<script>alert(1)</script>"), line([5], host="gpu2", job="node", __name__="x"))
    assert svg.get("role") == "img"
    assert svg.find(f"{SVG}title").text == "A <b>title</b> & more"
    assert svg.find(f"{SVG}desc").text == "<script>alert(1)</script>: 1 to 4, last 2; gpu2: 5 to 5, last 5"
    assert not svg.findall(f".//{SVG}script")


def test_lines_lie_within_and_are_told_apart() -> None:
    """Each line begins with a move, stays in the frame, and has a colour and dashes of its own."""
    svg = drawn(line([0, 1e9, 5], host="a"), line([3], host="b"), line([1e-9, 0], host="c"))
    paths = svg.findall(f"{SVG}path[@fill='none']")
    assert len({(path.get("stroke"), path.get("stroke-dasharray")) for path in paths}) == 3
    for path in paths:
        assert path.get("d").startswith("M")
        for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path.get("d")):
            assert plots.LEFT <= float(x) <= plots.WIDTH - plots.RIGHT and plots.TOP <= float(y) <= plots.HEIGHT - plots.BOTTOM


def test_a_gap_is_a_gap() -> None:
    """Where nothing was measured no line is drawn."""
    series = line([1, 1, 1, 1, 1, 1])
    del series["points"][2:4]
    assert drawn(series).find(f"{SVG}path[@fill='none']").get("d").count("M") == 2
    assert drawn(line([1, 1, 1])).find(f"{SVG}path[@fill='none']").get("d").count("M") == 1


def test_many_series() -> None:
    """The first ones are shown, and it says how many are not."""
    found = plots.plot("Title", [line([1], model=f"m{number:02}") for number in range(20)], END, DAY)
    assert len(found["legend"]) == plots.MAX_SERIES and found["left_out"] == 20 - plots.MAX_SERIES
    assert found["legend"][0]["name"] == "m00" and len({(item["colour"], item["dash"]) for item in found["legend"]}) == plots.MAX_SERIES


@pytest.mark.parametrize(("value", "top"), [(0, 1), (0.86, 1), (1, 1), (1.01, 2), (2.2, 2.5), (33, 50), (0.003, 0.005), (7e6, 1e7)])
def test_axis_ends_in_a_round_number(value: float, top: float) -> None:
    """Not less than the largest value."""
    assert plots.nice_top(value) == pytest.approx(top)


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [(0, False, "0"), (1234, False, "1.23k"), (5.6e6, False, "5.6M"), (2e9, False, "2G"), (0.125, False, "0.125"), (0.5, True, "50 %")],
)
def test_numbers(value: float, percent: bool, text: str) -> None:
    """Short ones."""
    assert plots.number(value, percent) == text


def test_colours_have_contrast() -> None:
    """At least 4.5 to 1 on white (WCAG 2, 1.4.3)."""
    for colour in plots.COLOURS:
        parts = [int(colour[place:place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        assert 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) >= 4.5, colour
