from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from layergraft.commands.api.loading import loading


@pytest.mark.parametrize(("code", "raised"), [(0, ""), (75, ""), (3, "raise SystemExit(3)")])
def test_what_a_command_registers_for_the_end_is_done(code: int, raised: str) -> None:
    command = (
        "import atexit, sys, threading, time\n"
        "from layergraft.commands import cli\n"
        "def main():\n"
        "    atexit.register(print, 'registered')\n"
        "    threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        f"    {raised or f'return {code}'}\n"
        "cli.main = main\n"
        "sys.exit(cli.console())\n"
    )
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert result.stdout.split() == ["thread", "registered"]


def test_the_process_is_not_taken_apart() -> None:
    """An object of a module says so when it is deleted, unless the process has ended before."""
    watch = "import sys\nclass Watch:\n    def __del__(self): print('taken apart', flush=True)\nwatch = Watch()\n"
    for words, apart in ((["plan"], False), (["--version"], True)):
        code = watch + f"from layergraft.commands.cli import console\nsys.argv[1:] = {words!r}\nsys.exit(console())"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ("taken apart" in result.stdout) == apart


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_output_that_is_lost_is_no_success() -> None:
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "layergraft", "plan"]
        result = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode != 0
    assert "No space left" in result.stderr


@pytest.mark.parametrize("collects", [True, False])
def test_collector_is_as_before_where_an_import_fails(collects: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(ImportError), loading():
            import layergraft.nothing  # noqa: F401
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
