"""What the documents show is run: Python blocks, one after another per document, and commands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import run_python

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]


def blocks(document, language):
    text = (ROOT / document).read_text(encoding="utf8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python")])
def test_python_blocks_run(document, tmp_path):
    script = tmp_path / "blocks.py"
    script.write_text("\n".join(blocks(document, "python")), encoding="utf8")
    done = run_python(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()


def commands():
    lines = [line for d in DOCUMENTS for block in blocks(d, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("graphopt ")])
def test_commands_run(command, tmp_path):
    done = run_python("-m", *shlex.split(command), cwd=tmp_path, env={"COLUMNS": "120"})
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout + done.stderr


def test_the_command_is_installed(tmp_path):
    script = Path(sys.executable).with_name("graphopt")
    done = subprocess.run([script, "passes"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "fuse-conv-bn" in done.stdout


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [c.split()[1] for c in commands() if c.startswith("make ")]
    assert named
    assert set(named) <= set(targets)


def test_links_lead_somewhere():
    for document in [*DOCUMENTS, "CONTRIBUTING.md"]:
        text = (ROOT / document).read_text(encoding="utf8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"
