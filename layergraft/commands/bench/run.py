"""`layergraft bench`: which measurement is asked for."""

from __future__ import annotations

from typing import Any, Literal

from layergraft.errors import UserError


def run_bench(
    what: Literal["step", "data", "logistic", "loop", "checkpoint", "encode"],
    objective: Literal["mae", "moco"],
    encoder: str,
    img_size: int,
    batch_size: list[int] | int,
    frozen: list[int] | None,
    data: str | None,
    views: Literal["mae", "moco"],
    busy: bool,
    rows: list[int] | None,
    runtimes: list[Literal["eager", "compiled", "onnx"]] | None,
    seconds: float,
    quiet: bool,
) -> dict[str, Any]:
    """See `layergraft.bench`. Each measurement imports what it compares with, so only the one asked for is loaded."""
    if busy and what != "data":
        raise UserError("--busy is for `layergraft bench data`.", "Leave it out.")
    if what == "data":
        from layergraft.commands.bench.data import bench_data

        if data is None:
            raise UserError("`layergraft bench data` has no images.", "Give --data FOLDER.")
        return bench_data(data, views, img_size, busy, seconds, quiet=quiet)
    if what == "logistic":
        from layergraft.commands.bench.logistic import bench_logistic

        return bench_logistic(encoder, data, rows, quiet=quiet)
    if what == "loop":
        from layergraft.commands.bench.loop import bench_loop

        return bench_loop({"mae": "mae", "moco": "graft"}[objective], seconds, quiet=quiet)
    if what == "checkpoint":
        from layergraft.commands.bench.loop import bench_checkpoint

        return bench_checkpoint(encoder, img_size, quiet=quiet)
    batch_sizes = [batch_size] if isinstance(batch_size, int) else batch_size
    if what == "encode":
        from layergraft.commands.bench.encode import bench_encode

        return bench_encode(encoder, img_size, batch_sizes, runtimes, seconds, quiet=quiet)
    if len(batch_sizes) > 1:
        raise UserError("`layergraft bench step` takes one batch size.", "Several are for `bench encode`.")
    from layergraft.commands.bench.step import bench_step

    return bench_step(objective, encoder, img_size, batch_sizes[0], frozen, seconds, quiet=quiet)
