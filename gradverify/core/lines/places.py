"""What of a code object can run: its statements, and the two sides of each of its conditions.

What only raises an error is left out: no gradient comes from there.
"""

from __future__ import annotations

import ast
import dis
import linecache
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any

_BEGINS = {"RESUME", "COPY_FREE_VARS", "MAKE_CELL", "RETURN_GENERATOR", "GEN_START", "CACHE", "NOT_TAKEN"}
_ERRORS = (ast.Raise, ast.Assert)
_WIDTH = 60  # of a condition that is quoted


@dataclass(frozen=True, slots=True)
class Condition:
    """A test in the code that a conditional jump decides.

    Attributes
    ----------
    line, text : where it stands, and in the author's words
    leads : for what it can be, the statement that comes next; what leads to an error only is left out
    jump, target : the instruction, and the offset it leads to when it is taken
    """

    line: int
    text: str
    leads: dict[bool, int]
    jump: str
    target: int

    def value(self, following: int) -> bool:
        """What it was, from the offset of what came next."""
        return _truth(self.jump, self.text, following == self.target)


@dataclass(slots=True)
class Source:
    """One file of the author's, read once.

    Attributes
    ----------
    starts : for each line of a statement, the line on which that statement begins
    ends : for each first line of a statement, its last one (of its header, where it has a body)
    errors : first lines of statements that only raise
    under : for each first line, the condition that led there, in words
    headers : for the first line of a function, decorators included, the line of its `def`; none where all is one line
    names : wherever one stands
    tests : for the line and column of an `if` or `while`, what it asks; some jumps stand at the whole of it
    """

    starts: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    errors: set[int] = field(default_factory=set)
    under: dict[int, str] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    headers: dict[int, int] = field(default_factory=dict)
    tests: dict[tuple[int, int], str] = field(default_factory=dict)
    names: list[ast.Name] = field(default_factory=list)


def statements(code: CodeType) -> frozenset[int]:
    """First lines of the statements of a code object, but for those that only raise."""
    source = source_of(code.co_filename)
    own = {source.headers.get(code.co_firstlineno, 0)}  # a generator has instructions there
    return frozenset(source.starts.get(n, n) for n in _lines(code)) - source.errors - own


def ran(code: CodeType, lines: set[int]) -> set[int]:
    """First lines of the statements that ran, of the lines that did."""
    source = source_of(code.co_filename)
    return {source.starts.get(n, n) for n in lines} & statements(code)


@lru_cache(maxsize=4096)
def _lines(code: CodeType) -> frozenset[int]:
    found: set[int] = set()
    named = {i.offset: i.opname for i in dis.get_instructions(code)}
    for start, end, line in code.co_lines():
        if line and any(named.get(k, "CACHE") not in _BEGINS for k in range(start, end, 2)):
            found.add(line)
    return frozenset(found)


def inner(code: CodeType) -> Iterator[CodeType]:
    """The functions that are defined inside a function, and those inside these."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from inner(constant)


def lambda_in(code: CodeType) -> tuple[int, str] | None:
    """First line of the statement in which a lambda stands, and its body in words; None for any other code."""
    if code.co_name != "<lambda>" or not hasattr(code, "co_positions"):
        return None
    source = source_of(code.co_filename)
    spans: list[Any] = [p for p in list(code.co_positions())[1:] if None not in p and p[2] != p[3]]
    if not spans:
        return None
    (line, column), (end, last) = min((p[0], p[2]) for p in spans), max((p[1], p[3]) for p in spans)
    return source.starts.get(line, line), _segment(source, line, end, column, last)


@lru_cache(maxsize=4096)
def conditions(code: CodeType) -> dict[int, Condition]:
    """The condition that each conditional jump of a code object decides, by the offset of the jump.

    Empty before Python 3.11, whose code does not tell where on a line a condition stands.
    """
    if not hasattr(code, "co_positions"):
        return {}
    source = source_of(code.co_filename)
    places = list(code.co_positions())
    instructions = list(dis.get_instructions(code))
    found: dict[int, Condition] = {}
    for k, jump in enumerate(instructions):
        if "_IF_" not in jump.opname or "EXC_MATCH" in instructions[k - 1].opname:
            continue
        line, end, column, last = places[jump.offset // 2]
        if line is None or end is None or column is None or last is None or k + 1 == len(instructions):
            continue
        text = _segment(source, line, end, column, last)
        ways = {
            _truth(jump.opname, text, True): jump.argval,
            _truth(jump.opname, text, False): instructions[k + 1].offset,
        }
        lines = {way: places[offset // 2][0] or line for way, offset in ways.items()}
        leads = {way: source.starts.get(n, n) for way, n in lines.items()}
        leads = {way: n for way, n in leads.items() if n not in source.errors}
        found[jump.offset] = Condition(line, text, leads, jump.opname, int(jump.argval))
    return found


def _truth(jump: str, text: str, taken: bool) -> bool:
    if jump.endswith("NONE"):
        missing = taken != ("NOT_NONE" in jump)
        return missing != ("is not None" in text)
    return taken == ("IF_TRUE" in jump)


def _segment(source: Source, line: int, end: int, column: int, last: int) -> str:
    """The author's words between two places; columns count bytes."""
    rows = [text.encode() for text in source.text[line - 1 : end]]
    if not rows:
        return ""
    rows[-1] = rows[-1][:last]
    rows[0] = rows[0][column:]
    return shortened(b" ".join(rows).decode(errors="replace"))


def shortened(text: str) -> str:
    """A condition on one line of a moderate length."""
    text = " ".join(text.split())
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


@lru_cache(maxsize=256)
def source_of(name: str) -> Source:
    """The statements of a file; of one that cannot be parsed (a notebook's magic), its lines alone."""
    source = Source(text=linecache.getlines(name))
    try:
        tree = ast.parse("".join(source.text))
    except (SyntaxError, ValueError):
        return source
    source.names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    for node, under in _statements(tree, ""):
        body = getattr(node, "body", None)
        first = node.lineno
        last = int(node.end_lineno or first)
        if isinstance(body, list) and body:
            last = max(first, min(last, body[0].lineno - 1))
        elif isinstance(node, ast.Match):
            last = first
        source.ends[first] = last
        source.under.setdefault(first, under)
        for line in range(first, last + 1):
            source.starts.setdefault(line, first)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.body[0].lineno > first:
            source.headers[min([first, *(d.lineno for d in node.decorator_list)])] = first
        if isinstance(node, (ast.If, ast.While)):
            source.tests[first, node.col_offset] = shortened(ast.unparse(node.test))
        if isinstance(node, _ERRORS):
            source.errors.add(first)
    return source


def _statements(node: ast.AST, under: str) -> Iterator[tuple[ast.stmt, str]]:
    """Every statement of a tree, with the header under which it stands."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            inner = _header(node, name) or under
            if isinstance(child, ast.stmt):
                yield child, inner
            yield from _statements(child, inner)


def _header(node: ast.AST, part: str) -> str:
    """The header of a compound statement in words, for what stands in one of its parts."""
    if isinstance(node, (ast.If, ast.While)) and part in ("body", "orelse"):
        word = "if" if isinstance(node, ast.If) else "while"
        return shortened(f"{'else of ' if part == 'orelse' else ''}{word} {ast.unparse(node.test)}")
    if isinstance(node, (ast.For, ast.AsyncFor)) and part in ("body", "orelse"):
        return shortened(f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}")
    if isinstance(node, ast.ExceptHandler) and part == "body":
        return shortened(f"except {ast.unparse(node.type)}" if node.type else "except")
    if isinstance(node, ast.match_case) and part == "body":
        return shortened(f"case {ast.unparse(node.pattern)}")
    return ""
