"""One virtual environment per peer under ``.recsys/peers``, with pinned releases.

They are not extras of recsys: none could be installed beside another, or beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".recsys" / "peers"
# Wheels of torch without CUDA, a tenth of the size; as the Makefile has it.
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes:
        licence: As its distribution declares it.
        requirements: For pip.
        why: Why these releases.
    """

    licence: str
    requirements: tuple[str, ...]
    why: str


PEERS = {
    "implicit": Peer(
        "MIT",
        ("implicit==0.7.3", "numpy==2.4.6", "scipy==1.17.1"),
        "the newest releases",
    ),
    "tfrs": Peer(
        "Apache-2.0",
        (
            "tensorflow-recommenders==0.7.7",
            "tensorflow-cpu==2.21.0",
            "tf-keras==2.21.0",
        ),
        "the newest releases; the library needs Keras 2, which tensorflow has left: "
        "tf-keras is that, and TF_USE_LEGACY_KERAS=1 makes tensorflow use it",
    ),
    "recbole": Peer(
        "MIT",
        (
            "recbole==1.2.1",
            "torch==2.13.0",
            "numpy==1.26.4",
            "scipy==1.10.1",
            "pandas==2.2.3",
        ),
        "the newest release, on the torch of recsys; it names types that numpy 2 has "
        "not (np.complex_), LightGCN calls a private method that scipy's matrices no "
        "longer have (dok_matrix._update), and pandas 3 ignores what it assigns to "
        "copies",
    ),
}


def python(peer: str, folder: Path = FOLDER) -> Path:
    """Return the interpreter of a peer, whether it is there or not."""
    return folder / peer / "bin" / "python"


def installed(peer: str, folder: Path = FOLDER) -> bool:
    """Say whether the environment is there, with these requirements."""
    stamp = _stamp(peer, folder)
    return stamp.exists() and stamp.read_text() == _wanted(peer)


def install(peer: str, folder: Path = FOLDER) -> None:
    """Make the environment of a peer; nothing when it is there.

    Raises:
        SystemExit: pip could not.
    """
    if installed(peer, folder):
        return
    print(f"Installing {peer} in {folder / peer}", file=sys.stderr)
    if not python(peer, folder).exists():
        venv.create(folder / peer, with_pip=True)
    wanted = PEERS[peer].requirements
    torch = [pin for pin in wanted if pin.startswith("torch==")]
    index = os.environ.get("TORCH_INDEX", _TORCH_INDEX)
    if torch and index:
        _pip(peer, folder, f"--extra-index-url={index}", *torch)
    _pip(peer, folder, *wanted)
    _stamp(peer, folder).write_text(_wanted(peer))


def _pip(peer: str, folder: Path, *arguments: str) -> None:
    command = [str(python(peer, folder)), "-m", "pip", "install", "-q"]
    command += ["--disable-pip-version-check", "--retries=2", *arguments]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")


def _stamp(peer: str, folder: Path) -> Path:
    return folder / peer / "requirements.txt"


def _wanted(peer: str) -> str:
    return "\n".join(PEERS[peer].requirements) + "\n"
