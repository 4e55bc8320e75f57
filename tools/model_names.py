"""Holds the names in tests/model against the C++ code, so that the two cannot drift unnoticed.

The models carry marks in comments beside their transitions:

    code: Call::signal, Board::signal -> signalled   these functions; the last stores this word
    code: Call::gather                               this function
    mend: Board::leave -> left                       a store that the code should make, does not yet
    phase: kPull                                     this enumerator of Phase

What the code stores is a declaration in src/window/board.h: the table kWords says of every word of
a control page who acts on it, the table kSteps which words each function of Board stores. For every
step that stores a word on which ranks act there is a mark that names the function and the same
words, and the other way round. Every other function in a mark exists. Every enumerator of WaitEnd
and ResetStage is a name in the models, every enumerator of Phase is in a mark, every word of
ControlPage and ResetPosts is a row of kWords, and every row on which ranks act is a variable.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests" / "model"
BOARD = "src/window/board.h"

# Names that the models have under another form, and why.
IMPLIED = {
    "released": "a rank that releases its group ends in the models",
    "mirrors": "a rank's table of mirrors is there before anybody reads its page",
    "kInterrupted": "a timeout may happen at any moment, and an interrupt does the same",
}

MARK = re.compile(r"\b(code|mend|phase):\s*([^;*]*?)(?=;|\*/|\bphase:|\.\s|$)", re.MULTILINE)


class Row(NamedTuple):
    text: str  # the word's name in ControlPage or ResetPosts
    reach: str  # an enumerator of Reach


def read(path: str) -> str:
    """C++ without comments, and each run of white space as one blank."""
    source = (ROOT / path).read_text()
    return re.sub(r"\s+", " ", re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL))


def body(source: str, head: str) -> str:
    """What stands in the braces behind the first `head`."""
    start = source.index(head) + len(head)
    start = source.index("{", start) + 1
    depth, place = 1, start
    while depth > 0:
        depth += {"{": 1, "}": -1}.get(source[place], 0)
        place += 1
    return source[start : place - 1]


def enumerators(path: str, name: str) -> set[str]:
    return set(re.findall(r"\b(k\w+)", body(read(path), f"enum class {name} ")))


def word_rows() -> dict[str, Row]:
    """The table kWords, by the enumerators of WordName."""
    rows = re.findall(
        r'WordRow ?{ ?WordName::(\w+), ?"(\w+)",.*?Reach::(\w+) ?}', body(read(BOARD), "kWords")
    )
    return {name: Row(text, reach) for name, text, reach in rows}


def steps(words: dict[str, Row]) -> dict[str, set[str]]:
    """The table kSteps: for each function of Board the words on which ranks act that it stores."""
    found = {}
    for verb, stored in re.findall(
        r'StepRow ?{ ?Step::\w+, ?"(\w+)", ?(.*?) ?}', body(read(BOARD), "kSteps")
    ):
        rows = [words[name] for name in re.findall(r"WordName::(\w+)", stored)]
        found[f"Board::{verb}"] = {row.text for row in rows} - set(IMPLIED)
    return found


def members() -> list[tuple[str, str]]:
    """Names of the words in control.h, each with the struct that it is in."""
    source = read("src/window/control.h")
    return [
        (struct, name)
        for struct in ("ControlPage", "ResetPosts")
        for name in re.findall(
            r"(?:\bWord|\batomic<[\w:]+>(?:,[^>]*>)?) (\w+)", body(source, f"struct {struct} ")
        )
    ]


def exists(name: str, sources: list[str]) -> bool:
    """True where src/ has a function, or an enum, of this name: Class::name or name."""
    owner, _, own = name.rpartition("::")
    if not owner:
        return any(re.search(rf"\b{own} ?\(|\benum class {own}\b", source) for source in sources)
    for source in sources:
        if re.search(rf"\b{owner}::{own} ?\(", source):
            return True
        head = re.search(rf"\bclass {owner}\b[^;{{]*(?={{)", source)
        if head and re.search(rf"\b{own} ?\(", body(source, head.group())):
            return True
    return False


def marks() -> tuple[dict[str, set[str]], dict[str, set[str]], set[str], str]:
    """Of the models: functions with the words they store, those still to come, phases, the text."""
    code: dict[str, set[str]] = {}
    mend: dict[str, set[str]] = {}
    phases: set[str] = set()
    text = ""
    for path in sorted(MODELS.glob("*.pml")):
        source = path.read_text()
        text += source
        comments = re.findall(r"/\*.*?\*/", source, re.DOTALL)
        for comment in comments:
            for kind, content in MARK.findall(re.sub(r"\s+", " ", comment)):
                names, _, stored = content.partition("->")
                name_list = re.findall(r"[A-Za-z_][\w:]*", names)
                if kind == "phase":
                    phases |= set(name_list)
                    continue
                target = code if kind == "code" else mend
                for name in name_list:
                    target.setdefault(name, set())
                if stored and name_list:
                    target[name_list[-1]] |= set(re.findall(r"\w+", stored))
    return code, mend, phases, text


def check_enumerators(variables: set[str], phases: set[str]) -> list[str]:
    drifted = [
        f"{name}::{enumerator} is not in the models"
        for path, name in [
            ("src/engine/wait.h", "WaitEnd"),
            ("src/window/control.h", "ResetStage"),
        ]
        for enumerator in sorted(enumerators(path, name) - variables - set(IMPLIED))
    ]
    known = enumerators("include/waybill/group.h", "Phase")
    drifted += [f"Phase::{name} is in no mark of the models" for name in sorted(known - phases)]
    return drifted + [
        f"the models mark phase {name}, Phase has none" for name in sorted(phases - known)
    ]


def check_words(words: dict[str, Row], variables: set[str]) -> list[str]:
    drifted = []
    texts = [row.text for row in words.values()]
    in_page = [name for _, name in members()]
    for struct, name in members():
        if texts.count(name) != in_page.count(name):
            drifted.append(f"the word {struct}::{name} has no row of its own in kWords")
    for row in words.values():
        acted_on = row.reach != "kPeople" and row.text not in IMPLIED
        if acted_on and row.text not in variables:
            drifted.append(f"the word {row.text} is not in the models")
    return drifted


def check_stores(code: dict[str, set[str]], stored: dict[str, set[str]]) -> list[str]:
    paths = [*(ROOT / "src").rglob("*.h"), *(ROOT / "src").rglob("*.cc")]
    sources = [read(str(path.relative_to(ROOT))) for path in sorted(paths)]
    drifted = [
        f"{name} stores {', '.join(sorted(stored[name]))}: in no mark"
        for name in sorted(stored)
        if stored[name] and name not in code
    ]
    for name in sorted(code):
        if not exists(name, sources):
            drifted.append(f"the models mark {name}, the code has no such function")
        elif code[name] != stored.get(name, set()):
            here = ", ".join(sorted(code[name])) or "nothing"
            there = ", ".join(sorted(stored.get(name, set()))) or "nothing"
            drifted.append(f"{name} stores {here} in the models, {there} in the code")
    return drifted


def check() -> tuple[list[str], list[str]]:
    """What drifted, and what the code has still to take over."""
    code, mend, phases, text = marks()
    variables = set(
        re.findall(r"\b[a-zA-Z_]\w*\b", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    )
    words = word_rows()
    stored = steps(words)
    drifted = check_enumerators(variables, phases)
    drifted += check_words(words, variables)
    drifted += check_stores(code, stored)
    notes = []
    for name in sorted(mend):
        missing = mend[name] - stored.get(name, set())
        if missing:
            notes.append(f"{name} should store {', '.join(sorted(missing))} (a mark 'mend:')")
        else:
            drifted.append(f"{name} stores what 'mend:' asks for: the mark is 'code:' now")
    return drifted, notes
