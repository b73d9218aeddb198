"""Runs a script again with the Python of the packages that it needs; deploy/venv.sh makes that on the first run."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[1]


def enter(name="eval_venv", requirements=HERE / "requirements.txt"):
    """Call first, before any import from the requirements."""
    try:
        python = subprocess.run(
            [str(REPO / "deploy" / "venv.sh"), name, str(requirements)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
    except subprocess.CalledProcessError as e:
        sys.exit(e.returncode)  # it has said why
    if os.path.realpath(sys.prefix) != os.path.realpath(pathlib.Path(python).parents[1]):
        os.execv(python, [python, *sys.argv])
