"""Build the guest of the real-stack tier: a Debian kernel and an initramfs with BlueZ and Python.

    python tests/bluez/build_image.py [--force]

No disk image, no loop device, no guest network. The image goes into ``$DKEY_VM_CACHE`` (default
``$XDG_CACHE_HOME/dkey/bluez-vm``), in a folder named after a hash of what it is made from; a second
call finds it there. ``$DKEY_VM_MIRROR`` names the Debian archive; default: the one of this
machine's apt.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from initramfs import Archive

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ImageError", "build", "cache", "cannot_build", "folder", "is_built", "say"]

_HERE = Path(__file__).resolve().parent
_SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
_PACKAGES = ("bluez", "dbus", "iproute2", "kmod", "python3")
_MODULES = (
    *("virtio_pci", "virtio_console", "virtio_rng"),
    *("bluetooth", "hci_vhci", "uhid"),
    # Without these the kernel has no ECDH context: GATT works, pairing does not.
    *("drbg", "jitterentropy_rng", "hmac", "sha512_generic", "sha256_generic", "ctr"),
    # What SMP and bluetoothd use.
    *("cmac", "ecb", "ccm", "aes_generic", "algif_hash", "algif_skcipher"),
)
_TOOLS = {"mmdebstrap": "mmdebstrap", "apt-config": "apt"}
_UNUSED = re.compile(
    r"(dev|boot|kernel/vmlinuz|var/(cache|log|lib/(apt|dpkg))"
    r"|usr/share/(bash-completion|bug|common-licenses|doc|keyrings|locale|man|perl5?|zoneinfo)"
    r"|usr/lib/(udev|systemd|x86_64-linux-gnu/(gconv|perl[^/]*)))/?(?=/|$)"
    r"|usr/lib/python3[^/]*/(ensurepip|idlelib|lib2to3|pydoc_data|test|unittest)/"
)
_MMDEBSTRAP_S = 600
_LOG_LINES = 25


class ImageError(Exception):
    """The image cannot be built; the text says why and what to try."""


def cache() -> Path:
    """Return the folder that images and what belongs to them are kept in."""
    if chosen := os.environ.get("DKEY_VM_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dkey" / "bluez-vm"


def folder() -> Path:
    """Return where the image for this Python is, or would be: ``vmlinuz`` and ``base.cpio``."""
    inputs = hashlib.sha256()
    for name in ("build_image.py", "initramfs.py", "kernel_hook.sh"):
        inputs.update((_HERE / name).read_bytes())
    return cache() / f"{_suite()}-{inputs.hexdigest()[:16]}"


def is_built() -> bool:
    """Return whether the image is there, whole."""
    return sys.version_info[:2] in _SUITES and folder().is_dir()


def cannot_build() -> str | None:
    """Return why this machine and user cannot build the image, or None if they should be able."""
    if sys.version_info[:2] not in _SUITES:
        return "no Debian release has this Python: use 3.11 or 3.13"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the image is built on x86-64 Linux only"
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            return f"{tool} is not installed: apt install {package}"
    if os.geteuid() != 0 and shutil.which("newuidmap") is None:
        return "mmdebstrap needs root, or newuidmap: apt install uidmap"
    try:
        _mirror()
    except ImageError as exc:
        return str(exc)
    return None


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, flush=True)  # noqa: T201 - a script's output


def build(*, force: bool = False) -> Path:
    """Build the image unless it is there, and return its folder.

    Raises:
        ImageError: a tool is missing or failed.
    """
    if (why := cannot_build()) is not None:
        raise ImageError(why)
    done = folder()
    with _alone():
        if force:
            shutil.rmtree(done, ignore_errors=True)
        if done.is_dir():
            return done
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="building-", dir=done.parent) as work:
            made = Path(work) / "image"
            made.mkdir()
            root = Path(work) / "root.tar"
            say(f"[1/2] Debian {_suite()}, kernel and BlueZ (a download of about 130 MB)")
            _bootstrap(root, made / "mmdebstrap.log")
            say(f"[2/2] initramfs, at {time.monotonic() - started:.0f} s")
            _pack(root, made)
            made.rename(done)
        size = sum(each.stat().st_size for each in done.iterdir()) >> 20
        say(f"built {done} ({size} MiB) in {time.monotonic() - started:.0f} s")
    return done


@contextmanager
def _alone() -> Iterator[None]:
    """Let one process build at a time; the others wait, and find the image."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _suite() -> str:
    return _SUITES[sys.version_info[0], sys.version_info[1]]


def _mirror() -> str:
    if chosen := os.environ.get("DKEY_VM_MIRROR"):
        return chosen
    apt = Path("/etc/apt")
    for each in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if each.suffix in {".list", ".sources"} and each.is_file():
            text = each.read_text("utf-8", "replace")
            for uri in re.findall(r"^(?:URIs:|deb(?:\s+\[[^]]*\])?)\s+(\S+)", text, re.MULTILINE):
                if uri.rstrip("/").endswith("/debian"):
                    return str(uri)
    raise ImageError("apt here has no Debian archive: set DKEY_VM_MIRROR to the URL of one")


def _apt_options() -> list[str]:
    """Return how this machine's apt reaches its archive: proxies and certificates."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = r'^Acquire::https?::(?:\S+::)?(?:Proxy|CaInfo|Verify-\w+)\b[^"]*"[^"]+";$'
    return [f"--aptopt={each}" for each in re.findall(wanted, dump, re.MULTILINE)]


def _bootstrap(root: Path, log: Path) -> None:
    unused = ("doc", "locale", "man", "info", "zoneinfo")
    merged = Path("/usr/share/mmdebstrap/hooks/merged-usr")  # spares the guest all of perl
    command = [
        *("mmdebstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}"),
        *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in unused),
        *("--dpkgopt=force-unsafe-io", "--aptopt=Acquire::Retries 3", *_apt_options()),
        *([f"--hook-dir={merged}"] if merged.is_dir() else []),
        *(f"--customize-hook={_HERE / 'kernel_hook.sh'}", _suite(), str(root), _mirror()),
    ]
    environment = os.environ | {"DKEY_VM_MODULES": " ".join(_MODULES)}
    with log.open("wb") as out:
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                timeout=_MMDEBSTRAP_S,
                check=True,
            )
        except subprocess.TimeoutExpired as exc:
            raise ImageError(_told(f"mmdebstrap took more than {_MMDEBSTRAP_S} s", log)) from exc
        except subprocess.CalledProcessError as exc:
            raise ImageError(_told(f"mmdebstrap failed ({exc.returncode})", log)) from exc


def _told(what: str, log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
    advice = "try: apt-get update; or set DKEY_VM_MIRROR to a Debian archive in reach"
    return "\n".join([what, *(f"  | {each}" for each in lines), f"  {advice}"])


def _pack(root: Path, made: Path) -> None:
    with tarfile.open(root) as source:
        kernel = source.extractfile("./kernel/vmlinuz")
        assert kernel is not None
        (made / "vmlinuz").write_bytes(kernel.read())
    with tarfile.open(root) as source, (made / "base.cpio").open("wb") as out, Archive(out) as base:
        base.folder("dev")
        base.tar(source, lambda path: not _UNUSED.match(path))


def main() -> int:
    """Build, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--force", action="store_true", help="build again, with today's packages")
    options = parser.parse_args()
    try:
        say(str(build(force=options.force)))
    except ImageError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
