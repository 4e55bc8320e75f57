"""Holds the names in tests/model against the C++ code, so that the two cannot drift unnoticed.

The models carry marks in comments beside their transitions:

    code: Call::signal -> signalled     this function, which stores to this word of a control page
    code: Call::gather                  this function, which stores to none
    mend: Call::end -> left             a store that the code should make and does not yet
    phase: kPull                        this enumerator of Phase

For every function of src/engine that posts or stores a word there is a mark that names the
function and the same words, and the other way round. A function that calls one of the free
functions that store to a page they are given (engine/reset_posts.h) stores what these do. Every
enumerator of WaitEnd and ResetStage is a name in the models, every enumerator of Phase is in a
mark, and every word of ControlPage and ResetPosts is a variable, or one of those that only people
read.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests" / "model"

# Words that no rank acts on: for debuggers and for tools that look at a group from outside.
FOR_PEOPLE = {"phase", "phase_since", "waits_for", "ControlPage::call"}
# Words that the models have under another form, and why.
IMPLIED = {
    "kInterrupted": "a timeout may happen at any moment, and an interrupt does the same",
}

MARK = re.compile(r"\b(code|mend|phase):\s*([^;*]*?)(?=;|\*/|\bphase:|\.\s|$)", re.MULTILINE)
HEADER = re.compile(r"([A-Za-z_][\w:~]*)\s*\([^;{}]*\)[^;{}()]*$")
SCOPE = re.compile(r"\b(?:class|struct|namespace)\s+([\w:]*)[^;{}()]*$")
NOT_FUNCTIONS = {"if", "for", "while", "switch", "catch", "return"}
STORE = re.compile(r"([\w.]+?)(?:\[\w+\])?(?:\.value)?\.store\(|\bpost\(([^,]+),")


def strip(source: str) -> str:
    """C++ without comments, strings and preprocessor lines."""
    source = re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)
    source = re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', '""', source)
    return re.sub(r"^\s*#[^\n]*", "", source, flags=re.MULTILINE)


def functions(source: str) -> dict[str, str]:
    """Bodies of the functions that a file defines, under Class::name or name."""
    source = strip(source)
    found: dict[str, str] = {}
    scopes: list[tuple[str, str, int]] = []  # kind, name, start of the body
    start = 0
    for place, letter in enumerate(source):
        if letter == "{":
            before = source[start:place]
            scope, header = SCOPE.search(before), HEADER.search(before)
            if any(kind == "function" for kind, _, _ in scopes):
                scopes.append(("block", "", place))
            elif scope:
                kind = "namespace" if "namespace" in before else "class"
                scopes.append((kind, scope.group(1), place))
            elif header and header.group(1) not in NOT_FUNCTIONS:
                owners = [name for kind, name, _ in scopes if kind == "class"]
                scopes.append(("function", "::".join([*owners, header.group(1)]), place))
            else:
                scopes.append(("block", "", place))
            start = place + 1
        elif letter == "}":
            kind, name, begin = scopes.pop()
            if kind == "function":
                found[name] = found.get(name, "") + source[begin:place]
            start = place + 1
        elif letter == ";":
            start = place + 1
    return found


def enumerators(path: str, name: str) -> set[str]:
    source = strip((ROOT / path).read_text())
    body = re.search(rf"enum class {name}\b[^{{]*{{(.*?)}}", source, re.DOTALL)
    assert body is not None, f"{path}: no enum {name}"
    return set(re.findall(r"\b(k\w+)", body.group(1)))


def words() -> dict[str, str]:
    """Words of the control page by their names, with the struct that each is in."""
    source = strip((ROOT / "src/window/control.h").read_text())
    found: dict[str, str] = {}
    for struct in ("ResetPosts", "ControlPage"):
        body = re.search(rf"struct {struct} {{(.*?)\n}};", source, re.DOTALL)
        assert body is not None, f"control.h: no {struct}"
        for name in re.findall(r"(?:\bWord|atomic<[\w:]+>,[^>]*>)\s+(\w+)", body.group(1)):
            found[f"{struct}::{name}"] = name
    return found


def stores(all_words: set[str]) -> dict[str, set[str]]:
    """For each function of the engine the words of its page that it stores to."""
    found: dict[str, set[str]] = {}
    bodies: dict[str, str] = {}
    for path in sorted((ROOT / "src/engine").glob("*.cc")):
        for name, body in functions(path.read_text()).items():
            bodies[name] = bodies.get(name, "") + body
            # A reference to a word, and the stamp of a header, are named like the word.
            names = set()
            for stored, posted in STORE.findall(body):
                expression = (stored or posted).split(".")
                name_of_word = expression[-1]
                if name_of_word == "call" and "reset" not in expression:
                    name_of_word = "ControlPage::call"
                if name_of_word in all_words | FOR_PEOPLE:
                    names.add(name_of_word)
            names -= FOR_PEOPLE | set(IMPLIED)
            if names:
                found[name] = names
    for helper in [name for name in found if "::" not in name]:
        for name, body in bodies.items():
            if name != helper and re.search(rf"\b{helper}\(", body):
                found[name] = found.get(name, set()) | found[helper]
    return found


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


def check() -> tuple[list[str], list[str]]:
    """What drifted, and what the code has still to take over."""
    drifted: list[str] = []
    by_struct = words()
    all_words = set(by_struct.values())
    code, mend, phases, text = marks()
    variables = set(
        re.findall(r"\b[a-zA-Z_]\w*\b", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    )

    for path, name in [
        ("src/engine/wait.h", "WaitEnd"),
        ("src/window/control.h", "ResetStage"),
    ]:
        for enumerator in sorted(enumerators(path, name) - variables - set(IMPLIED)):
            drifted.append(f"{name}::{enumerator} is not in the models")
    known = enumerators("include/waybill/group.h", "Phase")
    drifted += [f"Phase::{name} is in no mark of the models" for name in sorted(known - phases)]
    drifted += [f"the models mark phase {name}, Phase has none" for name in sorted(phases - known)]
    for full, name in sorted(by_struct.items()):
        if not {name, full} & (FOR_PEOPLE | set(IMPLIED)) and name not in variables:
            drifted.append(f"the word {full} is not in the models")

    stored = stores(all_words)
    defined: set[str] = set()
    for folder in ("engine", "window", "transport"):
        for path in [*(ROOT / "src" / folder).glob("*.cc"), *(ROOT / "src" / folder).glob("*.h")]:
            source = path.read_text()
            defined |= set(functions(source)) | set(re.findall(r"enum class (\w+)", source))
    for name in sorted(stored):
        if name not in code:
            drifted.append(f"{name} stores {', '.join(sorted(stored[name]))}: in no mark")
    for name in sorted(code):
        if name not in defined:
            drifted.append(f"the models mark {name}, the code has no such function")
        elif code[name] != stored.get(name, set()):
            here = ", ".join(sorted(code[name])) or "nothing"
            there = ", ".join(sorted(stored.get(name, set()))) or "nothing"
            drifted.append(f"{name} stores {here} in the models, {there} in the code")
    notes = []
    for name in sorted(mend):
        missing = mend[name] - stored.get(name, set())
        if missing:
            notes.append(f"{name} should store {', '.join(sorted(missing))} (a mark 'mend:')")
        else:
            drifted.append(f"{name} stores what 'mend:' asks for: the mark is 'code:' now")
    return drifted, notes
