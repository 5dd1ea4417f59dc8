"""Write the option tables of the roles' READMEs from their argument_specs.

usage: role_docs.py [--check]     with --check nothing is written, and a stale table is an error
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Iterator

import yaml

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- options:begin -->", "<!-- options:end -->"


def plain(text: str) -> str:
    """Ansible's semantic markup as Markdown."""
    text = re.sub(r"\b[COVBI]\(([^)]*)\)", r"`\1`", text)
    text = re.sub(r"\bM\(([^)]*)\)", r"`\1`", text)
    return text.replace("|", "\\|")


def description(option: dict[str, Any]) -> str:
    """The description as one paragraph."""
    text = option["description"]
    return " ".join(plain(line) for line in ([text] if isinstance(text, str) else text))


def default(option: dict[str, Any]) -> str:
    """The default as YAML on one line."""
    if option.get("required"):
        return "**required**"
    if "default" not in option:
        return ""
    return f"`{yaml.safe_dump(option['default'], default_flow_style=True, width=1000).removesuffix('...' + chr(10)).strip()}`"


def rows(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """A row for each option, and for the options within."""
    for name, option in options.items():
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        choices = f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}." if "choices" in option else ""
        yield f"| `{prefix}{name}` | {kind} | {default(option)} | {description(option)}{choices} |"
        yield from rows(option.get("options", {}), f"{prefix}{name}{'[]' if option.get('elements') == 'dict' else ''}.")


def table(role: Path) -> str:
    """The option table of a role."""
    spec = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]
    return "\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *rows(spec.get("options", {}))])


def render(role: Path) -> tuple[str, str]:
    """The README of a role as it is, and as it should be."""
    text = (role / "README.md").read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{role.name}/README.md has no lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    return text, f"{before}{BEGIN}\n{table(role)}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    """Command line."""
    stale = []
    for role in sorted((ROOT / "roles").iterdir()):
        text, wanted = render(role)
        if text != wanted:
            stale.append(role.name)
            if "--check" not in sys.argv:
                (role / "README.md").write_text(wanted, encoding="utf-8")
    if stale:
        print(f"option tables {'are stale: run make docs' if '--check' in sys.argv else 'written'}: {', '.join(stale)}")
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
