"""Where the CPU seconds of a full backup go: each step alone, on the same rows.

The steps are run one after the other on a sample of the large table's rows and scaled to
all of the COPY text, so they add up to about what a whole backup takes.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import asyncpg
import blake3
import psycopg
import zstandard
from measure import Command
from results import Results
from stage import Stage

from aurora.repository import envelope
from aurora.repository.layout import ObjectType
from aurora.storage.local import LocalStorage

_SAMPLE = 96 << 20  # bytes of COPY text


def half_queries(stage: Stage, form: str) -> list[str]:
    """Two queries that share all rows; *form* has places for ``{columns}`` and ``{source}``."""
    with psycopg.connect(stage.dsn()) as conn:
        tables = conn.execute(
            "SELECT relname, relpages FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'public'::regnamespace ORDER BY relpages DESC, relname"
        ).fetchall()
    large, pages = tables[0]
    halves = [
        form.format(source=f"{large} t WHERE ctid < '({pages // 2},0)'"),
        form.format(source=f"{large} t WHERE ctid >= '({pages // 2},0)'"),
    ]
    for number, (name, _) in enumerate(tables[1:]):
        halves[number % 2] += ";" + form.format(source=f"{name} t")
    return halves


def psql(stage: Stage, query: str) -> Command:
    """psql that runs *query* and throws its output away."""
    program = stage.program("psql")
    settings = "SET max_parallel_workers_per_gather = 0;"
    return Command([program, "-qX", "-d", stage.dsn(), "-c", settings + query])


def measure_parts(stage: Stage, results: Results, text_bytes: int) -> None:
    """CPU seconds of each step for *text_bytes* of COPY text, into ``results.parts``."""
    floor = results.best("floor")
    if floor is not None:
        results.parts["server: COPY out"] = floor.server_cpu
    hashing = half_queries(stage, "SELECT sum(hash_record_extended(ROW(t.*), 0)) FROM {source}")
    results.parts["server: hash of every row"] = stage.run(
        *[psql(stage, query) for query in hashing]
    ).server_cpu
    # In a process of its own: the memory it takes would show up as that of those we start.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as aside:
        sample, steps = aside.submit(_client_parts, stage.dsn(), stage.scratch / "parts").result()
    for name, seconds in steps.items():
        results.parts[f"client: {name}"] = seconds * text_bytes / sample


def _client_parts(dsn: str, directory: Path) -> tuple[int, dict[str, float]]:
    """Bytes of the sample, and the CPU seconds of each step for it."""
    chunks, receiving = _sample(dsn)
    steps = {"receive (asyncpg)": receiving, **dict(_steps(chunks, directory))}
    return sum(len(chunk) for chunk in chunks), steps


def _sample(dsn: str) -> tuple[list[bytes], float]:
    """Chunks of COPY text, and the CPU seconds of receiving them."""
    chunks: list[bytes] = []

    async def receive() -> None:
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        held: list[bytes] = []

        async def take(data: bytes) -> None:
            held.append(data)
            if len(data) < 128 << 10:  # as Aurora does, see copyout.py
                await asyncio.sleep(0.001)

        blocks = 0
        while sum(len(chunk) for chunk in chunks) < _SAMPLE:
            where = f"ctid >= '({blocks},0)' AND ctid < '({blocks + 1024},0)'"
            await connection.copy_from_query(f"SELECT * FROM orders WHERE {where}", output=take)
            if not held:
                break
            chunks.append(b"".join(held))
            held.clear()
            blocks += 1024
        await connection.close()

    begun = time.process_time()
    asyncio.run(receive())
    return chunks, time.process_time() - begun


def _steps(chunks: list[bytes], directory: Path) -> Iterator[tuple[str, float]]:
    compressor = zstandard.ZstdCompressor(level=envelope.DEFAULT_LEVEL)
    storage = LocalStorage(directory)
    session = envelope.SessionKey(bytes(16), bytes(32))
    packed = [compressor.compress(chunk) for chunk in chunks]
    # Sealing what can't be compressed further skips that step but for one quick look.
    names = [f"chunks/00/{number:064x}-00000000" for number in range(len(chunks))]

    def seal(number: int) -> None:
        envelope.seal(
            packed[number], kind=ObjectType.CHUNK, name=names[number],
            repository_id=bytes(16), session=session, level=-5,
        )  # fmt: skip

    steps: list[tuple[str, Callable[[int], object]]] = [
        ("id of a chunk (BLAKE3)", lambda n: blake3.blake3(chunks[n], key=bytes(32)).digest()),
        ("compress (zstd 1)", lambda n: compressor.compress(chunks[n])),
        ("seal and check (AES-256-GCM)", seal),
        ("write, fsync", lambda n: storage.put(names[n], packed[n])),
    ]
    for name, step in steps:
        begun = time.process_time()
        for number in range(len(chunks)):
            step(number)
        yield name, time.process_time() - begun
