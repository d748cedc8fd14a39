"""A compiler launcher: `python compile_once.py FOLDER g++ ... -c SOURCE -o OBJECT` keeps objects in FOLDER.

CMake runs it where CMAKE_CXX_COMPILER_LAUNCHER="python;compile_once.py;FOLDER" says so: `make` builds the sources for the
editable install, the tests then build the same sources, of the unpacked sdist, at the price of preprocessing them.
The key is all that the object depends on: the preprocessed text, the flags and the compiler. Paths are no part of it, so
neither the text nor the debug information may hold them (no __FILE__, no -g).
"""

import hashlib
import os
import shutil
import subprocess
import sys

WITH_PATH = ("-o", "-c", "-MF", "-MT", "-MQ", "-isystem")


def main(folder: str, *command: str) -> int:
    if "-c" not in command or "-o" not in command:
        return subprocess.call(command)
    output = command[command.index("-o") + 1]
    # -MD with -MF writes the dependencies on this way too.
    preprocess = [*command[: command.index("-o")], *command[command.index("-o") + 2 :], "-E", "-P"]
    done = subprocess.run(preprocess, stdout=subprocess.PIPE)
    if done.returncode:
        return done.returncode
    compiler = os.path.realpath(shutil.which(command[0]))
    flags = [
        word
        for before, word in zip(command, command[1:])
        if before not in WITH_PATH and word not in WITH_PATH and not word.startswith("-I")
    ]
    state = os.stat(compiler)
    head = "\0".join([compiler, str(state.st_size), str(state.st_mtime_ns), *flags, ""]).encode()
    kept = os.path.join(folder, hashlib.sha256(head + done.stdout).hexdigest()[:32] + ".o")
    if not os.path.exists(kept):
        if status := subprocess.call(command):
            return status
        os.makedirs(folder, exist_ok=True)
        temporary = f"{kept}.{os.getpid()}"
        shutil.copyfile(output, temporary)
        os.replace(temporary, kept)
    else:
        shutil.copyfile(kept, output)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
