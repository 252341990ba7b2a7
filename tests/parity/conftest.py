"""Turns fixture folders into tests."""

import pytest
from discovery import checks_of, fixture_folders, kind_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Turn every check of every fixture folder into a test of its own."""
    if "fixture_check" not in metafunc.fixturenames:
        return
    cases, names = [], []
    for name, folder in fixture_folders():
        for check, function in checks_of(kind_of(folder)).items():
            cases.append((folder, function))
            names.append(f"{name}-{check}")
    metafunc.parametrize("fixture_check", cases, ids=names)
