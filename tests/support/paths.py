"""The root of the repository, for tests that start processes or build the package."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
