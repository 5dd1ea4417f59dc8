"""What must stay true of all roles and all modules."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/rig"))

import role_docs  # noqa: E402

ROLES = sorted(path for path in (ROOT / "roles").iterdir())
MODULES = sorted(path for path in (ROOT / "plugins/modules").glob("*.py"))
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
# the prefix of the options that several roles share
SHARED_PREFIX = "ollama"


def load(path: Path) -> Any:
    """A YAML file; nothing when there is none."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def options(role: Path) -> dict[str, Any]:
    """The options of a role, from its argument_specs."""
    return load(role / "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})


def prefix(role: Path) -> str:
    """The prefix of a role's variables."""
    return SHARED_PREFIX if role.name == "common" else role.name


def by_name(path: Path) -> str:
    """Id of a parametrised test."""
    return path.stem


each_role = pytest.mark.parametrize("role", ROLES, ids=by_name)
each_module = pytest.mark.parametrize("module", MODULES, ids=by_name)


@each_role
def test_defaults_equal_the_spec(role: Path) -> None:
    """Defaults and argument_specs have the same keys and values; what is required has no default."""
    defaults = load(role / "defaults/main.yml") or {}
    spec = {name: option.get("default") for name, option in options(role).items() if not option.get("required") and "default" in option}
    assert defaults == spec


@each_role
def test_every_option_is_described(role: Path) -> None:
    """Every option, those within too, has a type and a description."""

    def check(where: str, found: dict[str, Any]) -> None:
        for name, option in found.items():
            assert option.get("description"), f"{where}{name} has no description"
            assert option.get("type"), f"{where}{name} has no type"
            check(f"{where}{name}.", option.get("options", {}))

    check("", options(role))
    assert load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["short_description"]


@each_role
def test_option_names(role: Path) -> None:
    """Options begin with the role's name; a boolean ends in _enabled, a number of seconds in _seconds."""
    for name, option in options(role).items():
        assert name.startswith(f"{prefix(role)}_"), name
        if option["type"] == "bool":
            assert name.endswith("_enabled"), name
        if option["type"] in ("int", "float") and re.search(r"(timeout|interval)$", name):
            pytest.fail(f"{name}: a time in seconds ends in _seconds")


@each_role
def test_internal_names(role: Path) -> None:
    """Internal variables, registers and loop variables begin with two underscores and the role's name."""
    names = list(load(role / "vars/main.yml") or {})
    for path in [*(role / "vars").glob("*.yml")]:
        names += list(load(path) or {})
    for path in [*(role / "tasks").glob("*.yml"), *(role / "handlers").glob("*.yml")]:
        text = path.read_text(encoding="utf-8")
        names += re.findall(r"^\s+(?:register|loop_var|index_var):\s*(\w+)", text, re.M)
    for name in names:
        assert name.startswith(f"__{prefix(role)}_"), name


@each_role
def test_readme_is_current(role: Path) -> None:
    """The option table of the README is the one that argument_specs give."""
    text, wanted = role_docs.render(role)
    assert text == wanted, "stale: run make docs"


@each_role
def test_role_meta(role: Path) -> None:
    """Licence, platforms, and the dependency on the data model."""
    meta = load(role / "meta/main.yml")
    assert meta["galaxy_info"]["license"] == "GPL-3.0-or-later"
    assert meta["galaxy_info"]["description"]
    dependencies = [dependency["role"] for dependency in meta["dependencies"]]
    assert dependencies == ([] if role.name == "common" else ["gpufleet.ollama.common"])


@each_role
def test_role_has_a_scenario(role: Path) -> None:
    """Every role is run by a playbook that a Molecule scenario converges with."""
    converged = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "molecule").glob("*/*.yml"))
    if f"gpufleet.ollama.{role.name}" in converged:
        return
    playbooks = [path for path in PLAYBOOKS if re.search(rf"role: gpufleet\.ollama\.{role.name}$", path.read_text(encoding="utf-8"), re.M)]
    # site.yml imports preflight.yml
    assert any(path.name in converged or path.name == "preflight.yml" for path in playbooks), f"no scenario runs {role.name}"


@each_role
def test_tasks_are_short_and_named(role: Path) -> None:
    """main.yml is a table of contents; a task file is short; no ignore_errors, no shell."""
    for path in (role / "tasks").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 110, f"{path.name} is too long"
        assert "ignore_errors" not in text
        assert "ansible.builtin.shell" not in text
        for task in load(path):
            assert task.get("name"), f"{path.name}: a task without a name"
            if path.name == "main.yml":
                assert "ansible.builtin.import_tasks" in task, f"main.yml: {task['name']} is no import"


@each_role
def test_templates_say_that_they_are_managed(role: Path) -> None:
    """Every template begins with the line that says so."""
    for path in (role / "templates").rglob("*.j2"):
        assert path.read_text(encoding="utf-8").startswith("{{ ansible_managed | comment"), path.name


@each_role
def test_preflight_knows_the_role(role: Path) -> None:
    """The options of every role of site.yml are validated before the first change."""
    if role.name == "common" or f"gpufleet.ollama.{role.name}" not in (ROOT / "playbooks/site.yml").read_text(encoding="utf-8"):
        return
    assert re.search(rf"^\s+{role.name}: \[", (ROOT / "playbooks/preflight.yml").read_text(encoding="utf-8"), re.M)


@each_module
def test_module_is_in_the_action_group(module: Path) -> None:
    """Every module is in the action group of the collection, so that module_defaults reach it."""
    assert module.stem in load(ROOT / "meta/runtime.yml")["action_groups"]["ollama"]


@each_module
def test_module_documentation(module: Path) -> None:
    """Documentation, examples with full names, typed results, check mode."""
    text = module.read_text(encoding="utf-8")
    parts = {name: yaml.safe_load(body) for name, body in re.findall(r'^(DOCUMENTATION|EXAMPLES|RETURN) = r"""(.*?)"""', text, re.M | re.S)}
    assert parts["DOCUMENTATION"]["module"] == module.stem
    assert {"check_mode", "diff_mode"} <= set(parts["DOCUMENTATION"]["attributes"])
    assert all(f"gpufleet.ollama.{module.stem}" in task for task in parts["EXAMPLES"])
    for name, value in (parts["RETURN"] or {}).items():
        assert {"description", "type", "returned", "sample"} <= set(value), name
    assert "supports_check_mode=True" in text


@each_module
def test_module_has_a_unit_test(module: Path) -> None:
    """tests/unit mirrors the tree."""
    assert (ROOT / f"tests/unit/plugins/modules/test_{module.stem}.py").is_file()


def test_filters_are_documented() -> None:
    """Every filter has a documentation file beside it, and each such file a filter."""
    found = set()
    for path in (ROOT / "plugins/filter").glob("*.py"):
        found |= set(re.findall(r"^\s+_\w+\.(\w+),$|^\s+\"(\w+)\":", path.read_text(encoding="utf-8"), re.M))
    names = {a or b for a, b in found}
    assert names == {path.stem for path in (ROOT / "plugins/filter").glob("*.yml")}


def test_the_collection_speaks_of_itself_only() -> None:
    """No path of a developer's machine, no open end in the code."""
    for folder in ("roles", "plugins", "playbooks", "molecule", "tests", "inventories"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix not in (".py", ".yml", ".j2", ".lua", ".md") or path == Path(__file__) or "__pycache__" in path.parts:
                continue
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), path
            assert "/work/" not in text, path
