"""What must stay true of all roles and all modules."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/rig"))

import dashboards  # noqa: E402
import role_docs  # noqa: E402

ROLES = sorted(path for path in (ROOT / "roles").iterdir())
MODULES = sorted(path for path in (ROOT / "plugins/modules").glob("*.py"))
SCENARIOS = sorted((ROOT / "molecule").glob("*/molecule.yml"))
# what tools and the demo leave in a checkout
LEFTOVERS = (
    ".mypy_cache/3.13/cache.json", ".pytest_cache/README.md", "tests/unit/.pytest_cache/README.md", ".venv/pyvenv.cfg", ".ansible/tmp/file",
    ".cache/releases/file",
    "inventories/demo/.generated/api-key", "inventories/demo/group_vars/all/generated.yml", "tests/output/unit.log", "plugins/modules/__pycache__/a.pyc",
    "__pycache__/b.txt", "tests/c.pyc", "gpufleet-ollama-0.0.1.tar.gz",
)
# booleans that are called what everybody looks for
PLAIN_BOOLEANS = (
    "ollama_adopt", "ollama_gpu_required", "nvidia_driver_upgrade", "nvidia_driver_allow_branch_change", "nvidia_driver_allow_downgrade",
)
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
        if option["type"] == "bool" and name not in PLAIN_BOOLEANS:
            assert name.endswith("_enabled"), name
        if option["type"] in ("int", "float") and re.search(r"(timeout|interval)$", name):
            pytest.fail(f"{name}: a time in seconds ends in _seconds")


@each_role
def test_internal_names(role: Path) -> None:
    """Internal variables, registers and loop variables begin with two underscores and the role's name."""
    names = []
    # vars/main may be a folder
    for path in (role / "vars").rglob("*.yml"):
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


def tasks_of(block: Any) -> list[dict[str, Any]]:
    """Tasks, those within blocks too."""
    found = []
    for task in block or []:
        found += [task, *(inner for part in ("block", "rescue", "always") for inner in tasks_of(task.get(part)))]
    return found


def roles_of(playbook: Path) -> set[str]:
    """The roles that a playbook runs, with those of the playbooks that it imports."""
    found: set[str] = set()
    for play in load(playbook) or []:
        imported = play.get("ansible.builtin.import_playbook")
        if imported:
            name = imported.removeprefix("gpufleet.ollama.")
            found |= roles_of(playbook.parent / imported if name == imported else ROOT / f"playbooks/{name}.yml")
        found |= {role["role"] if isinstance(role, dict) else role for role in play.get("roles", [])}
        for task in tasks_of([task for part in ("pre_tasks", "tasks", "post_tasks") for task in play.get(part) or []]):
            found |= {task[action]["name"] for action in ("ansible.builtin.include_role", "ansible.builtin.import_role") if action in task}
    return found


def converge_of(scenario: Path) -> Path:
    """The playbook that a scenario converges with: its own, or the shared one."""
    for config in (load(scenario), load(ROOT / ".config/molecule/config.yml")):
        name = config.get("provisioner", {}).get("playbooks", {}).get("converge")
        if name:
            return scenario.parent / str(name)
    raise AssertionError(f"{scenario} has no converge playbook")


@each_role
def test_role_has_a_scenario(role: Path) -> None:
    """Every role is run by a playbook that a Molecule scenario converges with."""
    converged = {converge_of(scenario) for scenario in SCENARIOS}
    assert all(playbook.is_file() for playbook in converged), converged
    assert f"gpufleet.ollama.{role.name}" in set().union(*map(roles_of, converged)), f"no scenario runs {role.name}"


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
    # a module that is all action plugin is documentation only
    action = ROOT / f"plugins/action/{module.name}"
    assert "supports_check_mode=True" in text or "_supports_check_mode = True" in action.read_text(encoding="utf-8")


@each_module
def test_module_has_a_unit_test(module: Path) -> None:
    """tests/unit mirrors the tree."""
    assert (ROOT / f"tests/unit/plugins/modules/test_{module.stem}.py").is_file()


def test_filters_are_documented() -> None:
    """Every filter is a function of the module that the table says, and has a documentation file; each such file has a filter."""
    tree = ast.parse((ROOT / "plugins/filter/fleet.py").read_text(encoding="utf-8"))
    table = next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES")
    for module, names in table.items():
        source = ast.parse((ROOT / f"plugins/plugin_utils/{module}.py").read_text(encoding="utf-8"))
        there = [getattr(node, "names", [node]) for node in source.body if isinstance(node, (ast.FunctionDef, ast.ImportFrom))]
        functions = {one.name for several in there for one in several}
        assert set(names) <= functions, module
    listed = [name for names in table.values() for name in names]
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "plugins/filter").glob("*.yml"))


def test_dashboards_are_current() -> None:
    """The JSON files are what their source makes, and no other is there."""
    found = {path: path.read_text(encoding="utf-8") for path in dashboards.FOLDER.glob("*")}
    assert found == dashboards.files(), "stale: run make dashboards"


def files_of_git() -> list[str]:
    """The files that git has or, when they are new, would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    git = shutil.which("git")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False) if git else None
    if done is None or done.returncode or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    return sorted(name for name in set(done.stdout.split("\0")) if name and (ROOT / name).is_file())


def test_the_collection_speaks_of_itself_only() -> None:
    """No path of a developer's machine, no open end in the code."""
    # root's home is everybody's, and a path of one part is too short to tell
    private = [path for path in (ROOT, Path.home()) if path != Path("/root") and len(path.parts) > 2]
    here = re.compile("|".join(rf"(?<![\w.~-]){re.escape(str(path))}(?![\w.-])" for path in private) or r"(?!)")
    # put together, so that this file does not hold what it looks for
    open_end = re.compile(rf"\b({'|'.join(('TO' + 'DO', 'FIX' + 'ME', 'X' * 3))})\b")
    for name in files_of_git():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (here, open_end):
            found = pattern.search(text)
            assert not found, f"{name} holds {found[0]}"


def archive_of(folder: Path, output: Path) -> set[str]:
    """Build the collection in a folder; the names of the files in its archive."""
    command = [str(Path(sys.executable).parent / "ansible-galaxy"), "collection", "build", "--force", "--output-path", str(output)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(output.glob("*.tar.gz"))) as archive:
        return {member.name for member in archive if not member.isdir()} - {"MANIFEST.json", "FILES.json"}


def test_archive_holds_what_git_has(tmp_path: Path) -> None:
    """No cache, no secret and no file that the demo made is in the archive built from this checkout."""
    tracked = set(files_of_git())
    archived = archive_of(ROOT, tmp_path)
    assert archived - tracked == set()
    assert {"README.md", "meta/runtime.yml", "playbooks/site.yml", "plugins/modules/ollama_release.py"} <= archived


def test_build_ignore_leaves_leftovers_out(tmp_path: Path) -> None:
    """The same for everything that tools and the demo may leave, whether it is here now or not."""
    tracked = set(files_of_git())
    copy = tmp_path / "copy"
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    for name in LEFTOVERS:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("left over\n", encoding="utf-8")
    assert archive_of(copy, tmp_path / "archive") - tracked == set()
