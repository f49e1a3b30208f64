"""The wheel as users install it: both import roots, their type markers, and entry points that lead somewhere."""

from __future__ import annotations

import ast
import configparser
import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = directory.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def dist_info(wheel, name):
    (path,) = (member for member in wheel.namelist() if re.fullmatch(rf"[^/]+\.dist-info/{name}", member))
    return wheel.read(path).decode()


def entry_points(wheel):
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str
    parser.read_string(dist_info(wheel, "entry_points.txt"))
    return {group: dict(parser[group]) for group in parser.sections()}


def source_of(wheel, module):
    path = module.replace(".", "/")
    members = {f"{path}.py", f"{path}/__init__.py"} & set(wheel.namelist())
    assert members, f"the wheel has no module {module}"
    return wheel.read(members.pop()).decode()


def names_bound_in(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("package", ["src/zupa", "instrumentation/zupa_instrumentation"])
def test_the_wheel_has_every_file_of_both_import_roots(wheel, package):
    base = (ROOT / package).parent
    files = {path.relative_to(base).as_posix() for path in (ROOT / package).rglob("*") if path.is_file()}
    wanted = {name for name in files if "__pycache__" not in name}
    assert f"{Path(package).name}/py.typed" in wanted
    assert wanted <= set(wheel.namelist())


def test_the_wheel_has_nothing_else(wheel):
    roots = {name.split("/")[0] for name in wheel.namelist()}
    (metadata,) = {root for root in roots if root.endswith(".dist-info")}
    assert roots == {"zupa", "zupa_instrumentation", metadata}
    assert not [name for name in wheel.namelist() if name.endswith((".pyc", ".so"))]


def test_every_entry_point_leads_to_a_module_of_the_wheel_and_a_name_in_it(wheel):
    groups = entry_points(wheel)
    assert {"console_scripts", "opentelemetry_instrumentor", "pytest11"} <= groups.keys()
    assert groups["console_scripts"]["zupa"] == "zupa.cli:main"
    for group in groups.values():
        for target in group.values():
            module, _, name = target.partition(":")
            source = source_of(wheel, module)
            assert not name or name in set(names_bound_in(source)), f"{module} has no {name}"


def test_the_metadata_names_the_project(wheel):
    metadata = email.message_from_string(dist_info(wheel, "METADATA"))
    assert metadata["Name"] == "zupa-otel"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in dist_info(wheel, "licenses/LICENSE")


def test_the_constraints_pin_every_requirement_of_the_development_environment(wheel):
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    metadata = email.message_from_string(dist_info(wheel, "METADATA"))
    for requirement in metadata.get_all("Requires-Dist"):
        extra = re.search(r"extra == '(\w+)'", requirement)
        if extra and extra[1] not in {"test", "check"}:
            continue
        name = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
        assert name in pins, f"constraints.txt does not pin {name}: run `make lock`"
