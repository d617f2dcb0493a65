"""The README must not promise what is not there."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

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


def test_topics_and_services_are_those_of_the_interface_page():
    page = (ROOT / "docs" / "interfaces.md").read_text()
    for name in set(re.findall(r"`(~/[\w/]+)`", README)):
        assert name in page, f"{name} is not in docs/interfaces.md"


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing
