"""Beginnings of texts for the ranks of a group, one each, of different lengths up to 64 bytes."""

PROMPTS: tuple[bytes, ...] = (
    b'def read_config(path, encoding="utf-8"):\n    """',
    b'class Connection:\n    """Represents a connection to ',
    b"#!/usr/bin/env python3\nimport os\nimport sys\n",
    b"    def __init__(self, host, port=0, timeout=None):\n        ",
    b'class ParseError(Exception):\n    """Raised when ',
    b"def merge(left, right):\n    result = []\n    for ",
    b'"""This module provides ',
    b"def main():\n    parser = argparse.ArgumentParser(",
)

MAX_PROMPT = 64
assert all(0 < len(prompt) <= MAX_PROMPT for prompt in PROMPTS)
