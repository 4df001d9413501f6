"""The command line: one subcommand per public function, read from its signature and docstring."""

from __future__ import annotations

import argparse
import atexit
import errno
import inspect
import os
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from layergraft.commands import api
from layergraft.config.loading import recipe_names
from layergraft.errors import Lost, Stopped, UserError, nearest, out_of_memory
from layergraft.runs.heap import share_heap
from layergraft.runs.interruption import FORCED, SignalGuard

COMMANDS: dict[str, Callable[..., Any]] = {function.__name__: function for function in api.COMMANDS}
# Arguments that are given without an option's name.
POSITIONAL = {"inspect": "checkpoint", "report": "runs", "status": "run", "bench": "what"}


class _Version(argparse.Action):
    """Print the installed version, which is looked up when it is asked for: help stays quick."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"layergraft {version('layergraft')}")
        parser.exit()


# Errors of disk, permission or path: the user's to mend, wherever they are met.
SYSTEM_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ETXTBSY),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV),
    *(errno.EMFILE, errno.ENFILE),
)

_LESS_MEMORY = (
    "There is not enough memory: {}.\nTake a smaller --batch-size, or train with --engine.micro_batch 32, which goes "
    "through a batch in parts; what was saved before is intact."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.prog}: {message}", f"`{self.prog} --help` lists the options.")


def _documentation(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Description, and argument -> its sentence, from a Google-style docstring."""
    text = inspect.getdoc(function) or ""
    description, _, arguments = re.split(r"\n(?:Returns|Raises):\n", text)[0].partition("\nArgs:\n")
    sentences: dict[str, str] = {}
    name = ""
    for line in arguments.splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            name, _, sentence = line.strip().partition(": ")
            sentences[name] = sentence
        elif name:
            sentences[name] += " " + line.strip()
    return description.strip(), {key: value.replace("%", "%%") for key, value in sentences.items()}


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _add(parser: argparse.ArgumentParser, name: str, kind: Any, default: Any, sentence: str, positional: bool) -> None:
    parts = [p for p in typing.get_args(kind) if p is not type(None)]
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        parts = [kind]
    literal = next((p for p in parts if typing.get_origin(p) is typing.Literal), None)
    listed = next((p for p in parts if typing.get_origin(p) is list), None)
    many = listed is not None
    simple = next((p for p in (typing.get_args(listed) if many else parts) if p in (bool, int, float)), str)
    convert: Any = _boolean if simple is bool else simple
    options: dict[str, Any] = {"help": sentence, "type": convert}
    if literal is not None:
        options["choices"] = typing.get_args(literal)
    if positional:
        optional = default is not inspect.Parameter.empty
        count = "?" if optional else "+" if many else None
        parser.add_argument(name, nargs=count, default=default if optional else None, **options)
        return
    if many:
        options["nargs"] = "+"
    elif simple is bool:
        options |= {"nargs": "?", "const": True}  # `--head` alone is `--head true`
    if default is inspect.Parameter.empty:
        options["required"] = True
    elif default is not None:
        options["help"] += f" (default: {str(default).lower() if isinstance(default, bool) else default})"
    option = name.replace("_", "-")
    spellings = [f"--{option}"] + ([f"--{name}"] if option != name else [])
    metavar = None if literal is not None else {bool: "true|false", int: "N", float: "X"}.get(simple, "VALUE")
    action = parser.add_argument(*spellings, dest=name, default=None, metavar=metavar, **options)
    if name == "recipe":
        action.completer = lambda **_: recipe_names()  # type: ignore[attr-defined]  # argcomplete looks for it


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="layergraft",
        description="Pre-train a Vision Transformer on unlabelled images, and measure how few labels it needs.",
        epilog="Start with: layergraft demo",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command, function in COMMANDS.items():
        description, sentences = _documentation(function)
        sub = subparsers.add_parser(
            command, help=description.partition("\n")[0], description=description, allow_abbrev=False
        )
        hints = typing.get_type_hints(function, {**function.__globals__, **_LAZY})
        for name, parameter in inspect.signature(function).parameters.items():
            if name != "overrides":
                positional = POSITIONAL.get(command) == name
                _add(sub, name, hints[name], parameter.default, sentences.get(name, ""), positional)
    return parser


# Return types that are imported for type checking alone.
_LAZY: Mapping[str, Any] = {
    "Run": object,
    "AblationFiles": object,
    "Results": object,
    "Entry": object,
    "Export": object,
    "Packed": object,
    "Look": object,
    "Picks": object,
    "Predicted": object,
    "Audit": object,
    "Status": object,
}


def _overrides(words: list[str], command: str) -> dict[str, Any]:
    """`--stages.mae.epochs 3 --evaluate.shots 1 5` -> dotted key -> word or words."""
    words_of: dict[str, list[str]] = {}
    key = ""
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            words_of[key] = [value] if equals else []
        elif key:
            words_of[key].append(word)
        else:
            raise UserError(f"layergraft {command}: {word!r} belongs to no option.")
    result: dict[str, Any] = {}
    for key, values in words_of.items():
        if not values:
            raise UserError(f"layergraft {command}: --{key} has no value.", "For instance --seed 1.")
        result[key] = values[0] if len(values) == 1 else values
    return result


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that completes a command line (`eval "$(register-python-argcomplete layergraft)"`) and end."""
    try:
        import argcomplete
    except ImportError:  # without the extra nothing is completed
        return
    argcomplete.autocomplete(parser, always_complete_options="long")


def _run(arguments: list[str]) -> int:
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # set by the shell that asks what a word may become
        complete(parser)
    if not arguments:
        parser.print_help()
        return 0
    if arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
        raise UserError(f"There is no command {arguments[0]!r}.", nearest(arguments[0], COMMANDS))
    if arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        raise UserError(f"layergraft: {arguments[0]!r} comes before a command.", "For instance: layergraft demo.")
    known, rest = parser.parse_known_args(arguments)
    function = COMMANDS[known.command]
    parameters = inspect.signature(function).parameters
    keywords = {key: value for key, value in vars(known).items() if key in parameters and value is not None}
    if rest:
        options = [word for word in rest if word.startswith("--")]
        if "overrides" not in parameters:
            word = (options or rest)[0]
            raise UserError(
                f"layergraft {known.command} has no option {word!r}.",
                nearest(word.lstrip("-").replace("-", "_"), list(parameters)),
            )
        keywords["overrides"] = _overrides(rest, known.command)
    function(**keywords)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code (0 done, 2 a user's error, 75 stopped and to be run again, 1 a bug).

    Signals count from its first line on: what they stop ends at a set place with 75. A second SIGINT forces (130).

    One of several processes does not return from a failure. It ends at once: in an orderly end its threads would wait
    for peers that wait for it, and whoever starts the group again sees nothing of that.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["bench"]:  # it keeps nothing, and its times are not to be looked into
        code = _exit_code(words)
    else:
        with SignalGuard(force=True):
            code = _exit_code(words)
    distributed = sys.modules.get("torch.distributed")
    if code and distributed is not None and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    return code


def console() -> int:
    """Run the command of the command line, and end the process at once when it is done.

    An orderly end takes half a million objects of the imported libraries apart, one by one, which takes a second and
    has libraries that were never used read in. What a command has registered to be done at the end is done before.
    """
    codes: list[int] = []

    def end() -> None:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None and not stream.closed:
                    stream.flush()
        except BrokenPipeError:
            pass  # nobody reads on
        except OSError:
            return  # the orderly end says so
        if codes:  # else an exception is on its way
            os._exit(codes[0])

    share_heap()
    atexit.register(end)  # the first to be registered is the last to be called
    codes.append(main())
    return codes[0]


def _exit_code(words: list[str]) -> int:
    first = os.environ.get("RANK", "0") == "0"
    try:
        return _run(words)
    except UserError as error:
        if first:
            print(f"layergraft: {error}", file=sys.stderr)
        return 2
    except Lost as error:  # which the first process may be: one of each node says so
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"layergraft: {error}", file=sys.stderr)
        return 75
    except Stopped as error:
        if first:
            print(f"layergraft: {error}", file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        if first:
            print("layergraft: forced to end; the last checkpoint is what is saved.", file=sys.stderr)
        return FORCED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in SYSTEM_ERRORS:
            return _other_failure(error)
        where = f" at {str(error.filename)!r}" if error.filename else ""
        print(
            f"layergraft: The system refused{where}: {error.strerror or error}.\n"
            "Free space, or mend the permission or path; what was saved before is intact. Then run the same command "
            "again.",
            file=sys.stderr,
        )
        return 2
    except Exception as error:
        return _other_failure(error)


def _other_failure(error: Exception) -> int:
    """Say what is wrong: the memory, or we."""
    if out_of_memory(error):
        first = str(error).strip().split("\n")[0][:300] or type(error).__name__
        print("layergraft: " + _LESS_MEMORY.format(first.rstrip(".")), file=sys.stderr)
        return 2
    traceback.print_exc()
    print("layergraft: this is a bug; please report it with the lines above.", file=sys.stderr)
    return 1
