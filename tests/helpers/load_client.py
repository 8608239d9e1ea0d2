"""Constant load from a process of its own: `python load_client.py URL CONNECTIONS OUT`, until its
input ends.

It prints a line when the first answer is there.

Every request has rows 1 .. 8, and model m multiplies them by its version. OUT is JSON: `versions`
(answers of each), `failures`, `mixed` (answers with rows of several versions), `longest` (seconds
between two answers).
"""

import asyncio
import json
import sys
import time

ROWS = list(range(1, 9))
BODY = json.dumps({"instances": [[row, 0] for row in ROWS]}).encode()


class Load:
    def __init__(self, url):
        host, _, port = url.removeprefix("http://").partition(":")
        self.host, self.port = host, int(port)
        self.versions, self.failures, self.mixed = {}, [], 0
        self.longest, self.last, self.running = 0.0, time.monotonic(), True
        self.head = (
            f"POST /v1/models/m:predict HTTP/1.1\r\nHost: {host}\r\nContent-Type:"
            f" application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
        ).encode()

    async def connection(self):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        while self.running:
            writer.write(self.head + BODY)
            await writer.drain()
            self.take(*await answer(reader))
        writer.close()

    def take(self, status, body):
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now
        if status != 200:
            self.failures.append(f"{status} {body[:200]!r}")
            return
        scales = {row[0] / n for row, n in zip(json.loads(body)["predictions"], ROWS, strict=True)}
        self.mixed += len(scales) > 1
        version = str(scales.pop())
        if not self.versions:
            print("answered", flush=True)
        self.versions[version] = self.versions.get(version, 0) + 1

    async def run(self, connections):
        loop = asyncio.get_running_loop()
        asked = [asyncio.create_task(self.connection()) for _ in range(connections)]
        await loop.run_in_executor(None, sys.stdin.read)
        self.running = False
        for result in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(result, BaseException):
                self.failures.append(repr(result))


async def answer(reader):
    """Status and body of one response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = next(
        int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length")
    )
    return int(head.split()[1]), await reader.readexactly(length)


def main(url, connections, out):
    load = Load(url)
    asyncio.run(load.run(int(connections)))
    with open(out, "w") as file:
        json.dump(
            {
                "versions": load.versions,
                "failures": load.failures,
                "mixed": load.mixed,
                "longest": load.longest,
            },
            file,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
