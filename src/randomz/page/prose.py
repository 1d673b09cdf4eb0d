"""The Markdown that report.md is written in -> HTML. Only what stands in that file is known here."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

Picture = Callable[[str, str], str]  # the name and the alt text of a picture -> HTML, empty to leave it out
VERDICTS = {"holds": "yes", "does not hold": "no", "not asked": "open"}


@dataclass(frozen=True)
class Section:
    """What stands below one heading, as blocks of HTML."""

    title: str
    blocks: list[str]

    @property
    def slug(self) -> str:
        """The title as it stands in a link."""
        return "-".join(re.findall(r"[a-z0-9]+", self.title.lower()))

    def html(self) -> str:
        """The section with its heading."""
        body = "\n".join(self.blocks)
        return f'<section id="{self.slug}"><h2>{escape(self.title)}</h2>\n{body}\n</section>'


class Table(NamedTuple):
    """A header, rows of HTML cells, and which columns are set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]


def sections(markdown: str, picture: Picture) -> list[Section]:
    """The opening below the title, then each second-level heading with what follows it."""
    title, *parts = re.split(r"^##? ", markdown.strip(), flags=re.MULTILINE)[1:]
    return [_section(part, picture) for part in (title, *parts)]


def _section(part: str, picture: Picture) -> Section:
    title, _, body = part.partition("\n")
    blocks = [_block(block.strip(), picture) for block in re.split(r"\n{2,}", body) if block.strip()]
    return Section(title.strip(), [block for block in blocks if block])


def _block(block: str, picture: Picture) -> str:
    if block.startswith("|"):
        return table_html(_table(block))
    if block.startswith("### "):
        return f"<h3>{inline(block[4:])}</h3>"
    if block.startswith("```"):
        lines = block.splitlines()[1:-1]
        return f'<div class="scroll"><pre><code>{"<br>".join(map(escape, lines))}</code></pre></div>'
    if block.startswith("<sub>"):
        return _glossary(block.removeprefix("<sub>").removesuffix("</sub>"))
    if found := re.fullmatch(r"!\[(.*)\]\(figures/(.*)\.png\)", block):
        shown = picture(found[2], found[1])
        return f'<figure class="scroll">{shown}</figure>' if shown else ""
    return f"<p>{inline(block)}</p>"


def inline(text: str) -> str:
    """Words with `code`, **bold** and *italic* in them."""
    text = escape(text.replace("\\|", "|"), quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)


def _glossary(text: str) -> str:
    """`key: meaning · key: meaning` as a list that opens on demand."""
    pairs = [entry.partition(": ") for entry in text.split(" · ")]
    terms = "".join(f"<div><dt>{inline(key)}</dt><dd>{inline(meaning)}</dd></div>" for key, _, meaning in pairs)
    return f"<details><summary>What the columns mean</summary><dl>{terms}</dl></details>"


def _table(block: str) -> Table:
    header, rule, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
    right = [cell == "--:" for cell in rule]
    return Table(header, [[_cell(*cell) for cell in zip(row, right, strict=True)] for row in rows], right)


def _cell(text: str, right: bool) -> str:
    """A verdict stands out; the interval of a figure stands below it, for a table has many columns."""
    if right and (found := re.fullmatch(r"(.+?) \((.+)\)", text)):
        return f"{inline(found[1])} <small>{inline(found[2])}</small>"
    verdict = VERDICTS.get(text.strip("*"))
    return f'<span class="verdict {verdict}">{escape(text.strip("*"))}</span>' if verdict else inline(text)


def table_html(table: Table) -> str:
    """A table whose first column names the rows, in a box of its own that scrolls where the screen is narrow."""
    side = ['class="right"' if right else "" for right in table.right]
    # An empty corner is no header of anything.
    head = "".join(
        _tag("th" if text else "td", inline(text), mark) for text, mark in zip(table.header, side, strict=True)
    )
    rows = [
        _tag("th", row[0], 'scope="row"')
        + "".join(_tag("td", text, mark) for text, mark in zip(row[1:], side[1:], strict=True))
        for row in table.rows
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _tag(name: str, content: str, attributes: str) -> str:
    return f"<{name} {attributes}>{content}</{name}>" if attributes else f"<{name}>{content}</{name}>"
