"""Run one payload in the guest: boot, run, bring back its exit code and its artefacts.

    python tests/bluez/run_vm.py PAYLOAD.py [--artefacts DIR] [--deadline SECONDS]

The guest gets, on top of the image of build_image.py, a second archive with this tree's ``dkey``
and ``firmware_mock`` in /project, what they need of this virtual environment in /site, and the
files of ``guest/`` with the payload as payload.py in /t. QEMU emulates (TCG) unless
``$DKEY_VM_ACCEL`` says otherwise: a /dev/kvm that opens may still never boot a Debian kernel.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import importlib.metadata
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import build_image
from initramfs import Archive

__all__ = ["Run", "VmError", "cannot_run", "run"]

_HERE = Path(__file__).resolve().parent
_PROJECT = _HERE.parent.parent
_QEMU = "qemu-system-x86_64"
_PACKAGES = ("dkey", "firmware_mock")
_MEMORY_MIB = 1536
_DEADLINE_S = 300.0
_CONSOLE_LINES = 40
_UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH


class VmError(Exception):
    """The guest gave no verdict; the text has the end of its console."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came back from one run.

    Attributes:
        exit_code: That of the payload.
        artefacts: Folder with console.log, the payload's files, bluetoothd.log and dmesg.txt.
        seconds: From QEMU's start to its end.
    """

    exit_code: int
    artefacts: Path
    seconds: float

    def console(self, lines: int = _CONSOLE_LINES) -> str:
        """Return the end of what the guest printed."""
        return _tail(self.artefacts / "console.log", lines)


def cannot_run() -> str | None:
    """Return why this machine cannot run the tier, or None."""
    if shutil.which(_QEMU) is None:
        return f"{_QEMU} is not installed: apt install qemu-system-x86"
    if build_image.is_built():
        return None
    why = build_image.cannot_build()
    return why and f"the guest image is not built, and cannot be here: {why}"


def run(payload: Path, artefacts: Path, *, deadline_s: float = _DEADLINE_S) -> Run:
    """Boot the built image with ``payload``; at the deadline the guest is killed.

    Raises:
        VmError: no verdict: QEMU failed, the guest crashed, or time ran out.
    """
    artefacts.mkdir(parents=True, exist_ok=True)
    console = artefacts / "console.log"
    with tempfile.TemporaryDirectory(prefix="dkey-vm-") as folder:
        initrd, bundle = Path(folder) / "initrd", Path(folder) / "artefacts.tar"
        _assemble(initrd, payload, Path(folder))
        started = time.monotonic()
        with console.open("wb") as out:
            try:
                ended = subprocess.run(
                    _command(initrd, bundle),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    timeout=deadline_s,
                    check=False,
                )
            except subprocess.TimeoutExpired as exc:
                raise _no_verdict(f"no verdict in {deadline_s:.0f} s", console) from exc
        seconds = time.monotonic() - started
        if ended.returncode != 0:
            raise _no_verdict(f"QEMU failed ({ended.returncode})", console)
        try:
            with tarfile.open(bundle) as brought:
                brought.extractall(artefacts, filter="data")
            exit_code = int((artefacts / "exit_code").read_text())
        except (OSError, tarfile.TarError, ValueError) as exc:
            raise _no_verdict("the guest stopped without a verdict", console) from exc
    return Run(exit_code=exit_code, artefacts=artefacts, seconds=seconds)


def _command(initrd: Path, bundle: Path) -> list[str]:
    accelerator = os.environ.get("DKEY_VM_ACCEL", "tcg,thread=multi")
    kernel_options = "console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on mitigations=off"
    return [
        *(_QEMU, "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", str(_MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-kernel", str(build_image.folder() / "vmlinuz"), "-initrd", str(initrd)),
        *("-append", kernel_options, "-serial", "stdio", "-device", "virtio-serial-pci"),
        *("-chardev", f"file,id=artefacts,path={bundle}"),
        *("-device", "virtserialport,chardev=artefacts", "-device", "virtio-rng-pci"),
    ]


def _no_verdict(what: str, console: Path) -> VmError:
    return VmError(f"{what}; the end of {console}:\n{_tail(console, _CONSOLE_LINES)}")


def _tail(path: Path, lines: int) -> str:
    text = path.read_text("utf-8", "replace").splitlines()[-lines:]
    return "\n".join(f"  | {each.rstrip()}" for each in text)


# -- what the guest gets


def _assemble(initrd: Path, payload: Path, work: Path) -> None:
    with initrd.open("wb") as out:
        for part in (build_image.folder() / "base.cpio", _site_packages()):
            with part.open("rb") as archive:
                shutil.copyfileobj(archive, out, 1 << 20)
        with Archive(out) as top:
            top.file("init", (_HERE / "guest" / "init").read_bytes(), 0o755)
            for each in sorted((_HERE / "guest").glob("*.py")):
                top.file(f"t/{each.name}", each.read_bytes())
            top.file("t/payload.py", payload.read_bytes())
            for package in _PACKAGES:
                _add_compiled(top, _PROJECT / package, f"project/{package}", work)


def _add_compiled(top: Archive, source: Path, path: str, work: Path) -> None:
    copy = work / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    # Emulated Python is slow; it need not compile, nor ask whether a file has changed.
    compileall.compile_dir(
        copy, stripdir=str(copy), prependdir=f"/{path}", quiet=2, invalidation_mode=_UNCHECKED
    )
    top.tree(copy, path, wanted=lambda _each: True)


def _site_packages() -> Path:
    """Return an archive of the installed packages that the project needs, made once for a set."""
    needed = _needed("dkey")
    names = sorted(f"{name}=={each.version}" for name, each in needed.items())
    key = hashlib.sha256("\n".join([sys.version, *names]).encode()).hexdigest()[:16]
    done = build_image.cache() / f"site-{key}.cpio"
    if done.is_file():
        return done
    with tempfile.TemporaryDirectory(prefix="building-", dir=done.parent) as folder:
        copy, made = Path(folder) / "site", Path(folder) / done.name
        for each in needed.values():
            for file in each.files or ():
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    target = copy / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file.locate(), target)
        compileall.compile_dir(
            copy, stripdir=str(copy), prependdir="/site", quiet=2, invalidation_mode=_UNCHECKED
        )
        with made.open("wb") as out, Archive(out) as archive:
            archive.tree(copy, "site", wanted=lambda _each: True)
        made.replace(done)
    return done


def _needed(root: str) -> dict[str, importlib.metadata.Distribution]:
    """Return what ``root`` needs, itself left out, by name; what is not installed is not needed."""
    found: dict[str, importlib.metadata.Distribution] = {}
    ahead = list(importlib.metadata.requires(root) or ())
    while ahead:
        text = ahead.pop()
        match = re.match(r"[A-Za-z0-9._-]+", text)
        assert match is not None
        name = re.sub(r"[-_.]+", "-", match[0]).lower()
        if name in found or "extra ==" in text:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        ahead.extend(found[name].requires or ())
    return found


def main() -> int:
    """Run one payload and return its exit code; 97 without a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("payload", type=Path)
    parser.add_argument("--artefacts", type=Path, default=Path("bluez-artefacts"))
    parser.add_argument("--deadline", type=float, default=_DEADLINE_S, metavar="SECONDS")
    options = parser.parse_args()
    try:
        build_image.build()
        ended = run(options.payload, options.artefacts, deadline_s=options.deadline)
    except (VmError, build_image.ImageError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 97
    build_image.say(ended.console())
    build_image.say(f"exit code {ended.exit_code} in {ended.seconds:.1f} s; see {ended.artefacts}")
    return ended.exit_code


if __name__ == "__main__":
    sys.exit(main())
