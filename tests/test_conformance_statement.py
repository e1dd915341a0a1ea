"""The conformance statement says what the code does."""

import runpy
from pathlib import Path

TABLES = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "conformance_tables.py"))


def test_its_tables_are_those_of_the_code():
    text = TABLES["STATEMENT"].read_text()
    assert TABLES["with_tables"](text) == text
    assert text.count("<!-- table: ") == len(TABLES["_TABLES"])
