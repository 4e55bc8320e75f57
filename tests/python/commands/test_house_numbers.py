"""tools/house_numbers.py counts what it says it counts."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = next(path for path in Path(__file__).resolve().parents if (path / "CMakeLists.txt").exists())
TOOL = ROOT / "tools" / "house_numbers.py"
_spec = importlib.util.spec_from_file_location("house_numbers", TOOL)
assert _spec is not None and _spec.loader is not None
house_numbers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(house_numbers)

CALL = """
class Call {
 public:
  Call& operator=(const Call&) = delete;
  void refuse(int why);
  int finish() { return number; }  // fail() is no function of this class
  int number = 0;
  std::vector<int> ranks;

 private:
  int hidden_ = 0;
};
"""
TRANSPORT = """
class Transport {
 public:
  virtual ~Transport() = default;
  virtual bool has_ended(int rank) = 0;  // virtual words do not count
  int size() const { return 1; }
};
"""
REPEATED = "\n".join(f"  step_{number}(1);" for number in range(7))
LONG = "int run() {\n" + "  // a comment\n" * 400 + "}\n"


def numbers(tree: Path) -> dict[str, int]:
    command = [sys.executable, str(TOOL), str(tree)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.rsplit(maxsplit=1) for line in shown.splitlines()[1:]]
    return {name.strip(): int(value) for name, value in rows}


def test_counts(tmp_path: Path) -> None:
    options = house_numbers.SIGNATURE
    for name, text in {
        "src/engine/call.h": CALL,
        "src/engine/run.cc": LONG,
        "src/transport/transport.h": TRANSPORT,
        "src/transport/one.cc": f"void one() {{\n{REPEATED}\n}}\n",
        "src/transport/two.cc": f"void two() {{\n  int x;\n{REPEATED}\n}}\n",
        "docs/page.md": " ".join(options) + " " + " ".join(options[::-1]),
        "python/form.py": f"def form():\n    return {options!r}\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert numbers(tmp_path) == {
        "copies of dispatch_v2's signature": 2,
        "public data members in engine classes": 2,
        "virtual functions of Transport": 2,
        "verbs that end a call": 2,
        "files of more than 400 lines": 1,
        "lines of comment in engine and transport": 400,
        "lines of the longest function, C++": 402,
        "lines of the longest function, Python": 2,
        "pairs of repeated places": 1,
    }
