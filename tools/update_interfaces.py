"""Writes the part "Types" of docs/interfaces.md from the comments of msg/, srv/ and action/; a test holds the page true.

A file is a description (comment lines), then fields and constants, one a line, each with its meaning behind ``#``; lines
``---`` divide the parts of services and actions.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "interfaces.md"
BEGIN = "<!-- types: written by tools/update_interfaces.py from msg/, srv/ and action/ -->\n"
END = "<!-- types: end -->\n"
PARTS = {"msg": ("",), "srv": ("Request", "Reply"), "action": ("Goal", "Result", "Feedback")}
PACKAGE = "gs_semantic"
LINE = re.compile(r"(?P<type>[\w/\[\]<=]+)\s+(?P<name>\w+)(?P<value>\s*=\s*[^#]+|\s+[^#=\s][^#]*)?\s*(?:#\s*(?P<text>.*))?")


def types() -> str:
    """All types, as Markdown."""
    out = ["## Types\n"]
    for kind in PARTS:
        for path in sorted((ROOT / kind).glob(f"*.{kind}")):
            out.append(section(path))
    return "\n".join(out)


def section(path: Path) -> str:
    """One file: heading, description, a table for each part."""
    kind = path.suffix.removeprefix(".")
    head, body = described(path)
    parts = body.split("\n---\n") if kind != "msg" else [body]
    if len(parts) != len(PARTS[kind]):
        raise ValueError(f"{path.name}: has {len(parts)} parts, a {kind} file has {len(PARTS[kind])}")
    text = [f"### {PACKAGE}/{kind}/{path.stem}\n", f"{head}\n"]
    for title, part in zip(PARTS[kind], parts, strict=True):
        rows = [row(path, line) for line in part.splitlines() if line.strip()]
        if title:
            text.append(f"{title}:\n" if rows else f"{title}: nothing.\n")
        if rows:
            text.append("| field | type | meaning |\n|---|---|---|\n" + "".join(rows))
    return "\n".join(text)


def described(path: Path) -> tuple[str, str]:
    """The description at the head of a file, and the rest."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    if not count:
        raise ValueError(f"{path.name}: line 1 is no comment; say what the type is for")
    # a part without fields leaves no line of its own
    return " ".join(line.lstrip("# ") for line in lines[:count]), "\n" + "\n".join(lines[count:]) + "\n"


def row(path: Path, line: str) -> str:
    """The table row of a field or constant."""
    found = LINE.fullmatch(line.strip())
    if found is None:
        raise ValueError(f"{path.name}: '{line}': expected `type name` or `type NAME=value`, and a comment behind it")
    value, name = (found["value"] or "").strip(), f"`{found['name']}`"
    if value:
        name += f" {value}" if value.startswith("=") else f" (default {value})"
    text = (found["text"] or "").strip().replace("|", "\\|")
    return f"| {name.replace(' =', ' = ') if value.startswith('=') else name} | {found['type']} | {text} |\n"


def page(text: str) -> str:
    """The page ``text`` with its generated part renewed."""
    before, found, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"{PAGE.name}: the marks {BEGIN.strip()} and {END.strip()} are missing")
    return f"{before}{BEGIN}\n{types()}\n{END}{after}"


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
