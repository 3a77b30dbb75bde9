"""What pyproject.toml says agrees with the folders that are there."""

import importlib
import re
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="the standard library reads TOML from Python 3.11 on")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_folder_is_installed():
    package_dir = PROJECT["tool"]["setuptools"]["package-dir"]
    found = {
        ".".join((name, *path.parent.relative_to(ROOT / folder).parts))
        for name, folder in package_dir.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_python_file_is_in_a_package():
    outside = [
        str(path.relative_to(ROOT))
        for folder in ("graphopt", "passes", "models")
        for path in (ROOT / folder).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    ]
    assert not outside


@pytest.mark.parametrize("name", PROJECT["tool"]["setuptools"]["packages"])
def test_package_imports_under_its_public_name(name):
    assert Path(importlib.import_module(name).__file__).is_relative_to(ROOT)


def test_passes_and_models_do_not_shadow_the_users_own_packages():
    top_level = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert top_level == {"graphopt"}


def test_installed_entry_points_are_the_declared_ones():
    installed = {
        point.name: point.value for point in distribution("graphopt").entry_points if point.group == "graphopt.passes"
    }
    assert installed == PROJECT["project"]["entry-points"]["graphopt.passes"]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the pins are for Python 3.11")
def test_every_direct_dependency_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["train"] + extras["dev"]
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {_canonical(requirement) for requirement in wanted} <= {_canonical(pin) for pin in pins}


def _canonical(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()
