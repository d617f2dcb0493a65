"""README and docs must not promise what is not there."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gs_semantic.cli import build_parser
from gs_semantic.client import SemanticMap
from gs_semantic.nodes.arguments import USES

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_planner_example_fits_the_client():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    calls = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and getattr(node.func.value, "id", "") == "semantic_map"
    ]
    assert len(calls) >= 5
    for call in calls:
        method = getattr(SemanticMap, call.func.attr)
        inspect.signature(method).bind(None, *call.args, **{keyword.arg: keyword.value for keyword in call.keywords})


def test_launch_arguments_exist():
    known = {argument.name for argument in USES["segment"].arguments}
    given = set(re.findall(r"(\w+):=", README))
    assert given and given <= known


def test_verbs_exist():
    verbs = next(action for action in build_parser()._actions if action.dest == "verb").choices
    named = set(re.findall(r"gs-semantic (\w+)", README))
    assert named == set(verbs)


def test_the_table_of_commands_has_all_that_a_verb_can_do():
    for verb, parser in _choices(build_parser()).items():
        rows = re.findall(rf"`(?:gs-semantic )?{verb} ([\w|-]+)", README.replace("\\|", "|"))
        uses = set(_choices(parser))
        assert uses <= {word for row in rows for word in row.split("|")}, verb


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The verbs of a parser, or what a verb can do."""
    return next((action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)), {})


def test_topics_and_services_are_those_of_the_interface_page():
    page = (ROOT / "docs" / "interfaces.md").read_text()
    for name in set(re.findall(r"`(~/[\w/]+)`", README)):
        assert name in page, f"{name} is not in docs/interfaces.md"


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "sample" / "SOURCE.md"]


def _commands(page: Path, program: str) -> Iterator[list[str]]:
    """Words after the program's name, of the page's blocks; not those with a <placeholder>."""
    fenced = False
    for line in re.sub(r"\\\n\s*", " ", page.read_text()).splitlines():
        fenced ^= line.startswith("```")
        for command in re.sub(r"\s#.*", "", line).split("&&") if fenced or line.startswith("    ") else ():
            if re.match(rf"\s*(\w+=\S+ )*{program} ", command) and "<" not in command:
                yield shlex.split(command.partition(f"{program} ")[2])


def test_commands_of_all_pages_are_understood(capsys):
    parser, count = build_parser(), 0
    for page in PAGES:
        for words in _commands(page, "gs-semantic"):
            count += 1
            try:
                parser.parse_args(words)
            except SystemExit as ended:  # some print a list and end; a mistake ends with 2
                assert not ended.code, f"{page.name}: {words}: {capsys.readouterr().err}"
            if words[0] == "run":
                _known_arguments(page, words[1], words[2:])
        for words in _commands(page, "ros2 launch gs_semantic"):
            _known_arguments(page, words[0].removesuffix(".launch.py"), words[1:])
    assert count > 100


def test_commands_of_reports_are_understood(capsys):
    parser, count = build_parser(), 0
    for report in sorted((ROOT / "docs" / "results").glob("*.json")):
        command = json.loads(report.read_text())["command"]
        if command.startswith("gs-semantic "):  # others say in words what was measured
            count += 1
            try:
                parser.parse_args(shlex.split(command)[1:])
            except SystemExit:
                pytest.fail(f"{report.name}: {capsys.readouterr().err}")
    assert count > 50


def _known_arguments(page: Path, use: str, words: list[str]) -> None:
    given = {word.partition(":=")[0] for word in words if ":=" in word}
    assert given <= {argument.name for argument in USES[use].arguments}, f"{page.name}: {use} {words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if "://" in target:
            continue
        path = page.parent / target if target else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
