"""`layergraft label`: label picked images in the browser, with the classifier's guess beside each."""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from layergraft.commands.label.background import Background
from layergraft.commands.label.labels_file import LabelsFile
from layergraft.commands.label.server import LabelServer
from layergraft.commands.label.session import Session
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import settle, shown_channels
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.errors import UserError
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.conformal import check_error
from layergraft.evaluation.features import center_and_normalize, features_named
from layergraft.runs.announce import announce
from layergraft.runs.interruption import SignalGuard

_TURN = 0.0005  # seconds after which a thread lets another one have Python; the usual 0.005 delays each step of a guess


@contextmanager
def quick_turns() -> Iterator[None]:
    """Let guesses go before accuracy and picks, which are made at the same time.

    On a processor each, none of the three threads waits for helpers of another.
    """
    threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        sys.setswitchinterval(interval)


def label_command(*, encoder: str, data: str, labels: str, number: int, error: float, port: int) -> Path:
    """Serve the page until a signal comes; see `layergraft.label`."""
    if number < 1:
        raise UserError(f"--number is {number}.", "It is how many images are to have a label, one at least.")
    check_error(error)
    if not 0 <= port < 2**16:
        raise UserError(f"--port is {port}.", "It is a number below 65536; 0 takes a free one.")
    source = open_source(data)
    if not len(source):
        raise UserError(f"{data!r} has no image.")
    loaded = load_encoder(encoder)
    source = settle(source, loaded.in_chans, announce, loaded.reads, repr(encoder))
    announce(*source.remarks, *remarks_on_files(look_at(source, loaded.in_chans), source))
    file = LabelsFile(labels, source)
    with features_named(encoder):
        features = center_and_normalize(features_of(loaded, source, ["cls"])["cls"])
    session = Session(source, features, file, number, error)
    if not session.usable.all():
        announce(f"{int((~session.usable).sum())} of {len(source)} images cannot be read or named: they are left out.")
    server = LabelServer(session, shown_channels(source, loaded.in_chans), port)
    background = Background(session)
    with quick_turns(), SignalGuard() as guard:
        serving = threading.Thread(target=server.serve_forever, args=(0.1,), name="layergraft-server", daemon=True)
        serving.start()
        background.start()
        print(f"Label here:  {server.url}")
        print(
            f"From another machine:  ssh -N -L {server.server_port}:127.0.0.1:{server.server_port} {platform.node()}  "
            "and the same address there"
        )
        print(f"Each answer is written to {file.path} at once. Ctrl-C ends.", flush=True)
        while guard.received is None:
            time.sleep(0.1)
        session.close()
        announce(f"{len(file.labels)} images have labels, in {file.path}.")
        server.shutdown()
        server.server_close()
        background.join()
    return file.path
