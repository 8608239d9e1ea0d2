"""Reads files of weights that were made to take memory or time: `python weight_fuzzer.py FOLDER
COPIES SEED`.

Every file of FOLDER is read, and COPIES of it with random changes. What comes out is a line for
each that gives neither tensors nor a sentence, or that takes more memory than its size explains or
more than seconds.
"""

import os
import random
import resource
import sys
import tempfile
import time

from models.weights import foreign_files

# Over 40 times the size of a file, for the interpreter's own.
ROOM = 64 * 2**20
SECONDS = 20
NUMBERS = (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x40")


def allowed(size):
    return 40 * size + ROOM


def pages():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def read(path, size):
    """What is wrong with the reading of a file, "" when nothing is."""
    used, start = pages(), time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (used + allowed(size), resource.RLIM_INFINITY))
    try:
        foreign_files.read(path)
        said = ""
    except ValueError as error:
        text = str(error)
        said = (
            text
            if "\n" in text or "MemoryError" in text or "allocate" in text or len(text) > 1000
            else ""
        )
    except BaseException as error:  # all others are what is looked for
        said = f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    took = time.process_time() - start
    return said or (f"took {took:.0f} s" if took > SECONDS else "")


def changed(contents, draw):
    contents = bytearray(contents)
    # The first part has what describes the rest.
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        place = draw.randrange(min(len(contents), draw.choice((200, 5000, len(contents)))))
        kind = draw.randrange(4)
        if kind == 0:
            contents[place] = draw.randrange(256)
        elif kind == 1:
            contents[place : place + 4] = draw.choice(NUMBERS)
        elif kind == 2:
            del contents[place : place + draw.randrange(1, 50)]
        else:
            start = draw.randrange(len(contents))
            contents[place:place] = contents[start : start + draw.randrange(1, 50)]
        contents = contents or bytearray(b"\0")
    return bytes(contents)


def main(folder, count, seed):
    draw = random.Random(seed)
    names = sorted(os.listdir(folder))
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(len(names) * (count + 1)):
            name = names[number % len(names)]
            with open(os.path.join(folder, name), "rb") as file:
                contents = file.read()
            if number >= len(names):
                contents = changed(contents, draw)
            path = os.path.join(scratch, name)
            with open(path, "wb") as file:
                file.write(contents)
            if said := read(path, len(contents)):
                print(f"{name} {number}: {said}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
