"""Draw .github/terminal.svg, the terminal on the README: `python -m tests.benchmarks.terminal`.

The commands are run for real, offline, and rich draws what they print.
"""

import io
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile

from rich.console import Console
from rich.text import Text

from tests.support.limits import MAX_SECONDS
from tests.support.paths import ROOT

IMAGE_FILE = ROOT / ".github" / "terminal.svg"
COLUMNS = 100
COMMANDS = (
    'g4f-websim --offline client "What is the capital of France?"',
    'g4f-websim --offline image "a cat on a couch" -n 2 -O cat.png',
    "g4f-websim --offline check",
)


def main() -> None:
    """Run the commands and write the image."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for command in COMMANDS:
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text(output_of(command)))
    svg = console.export_svg(title="g4f-websim", unique_id="terminal")
    # GitHub shows the image without loading fonts from other sites.
    IMAGE_FILE.write_text(re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")
    print(IMAGE_FILE.relative_to(ROOT))


def output_of(command: str) -> str:
    """Return what a command of this environment prints, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"HOME": folder, "G4F_CONFIG_DIR": folder, "COLUMNS": str(COLUMNS)}
        script = f"{sysconfig.get_path('scripts')}/g4f-websim"
        arguments = [sys.executable, script, *shlex.split(command)[1:]]
        done = subprocess.run(
            arguments, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=MAX_SECONDS
        )
    # A free port says nothing to a reader.
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8765", done.stdout)


if __name__ == "__main__":
    main()
