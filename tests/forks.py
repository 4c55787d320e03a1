"""Run notebooks and commands, each in a fork of one process that has imported what takes long to import.

A command starts four seconds faster so, and a notebook five; `run_alone` starts a process of its own as a shell does.
As a program, it answers each line of JSON on its standard input (what to run and where) with an exit status."""

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent


OWN = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK")  # set by pytest, torch's compiler and scikit-learn
READ_LATE = ("XDG_CACHE_HOME", "TMPDIR", "TORCH_HOME", "http_proxy", "https_proxy")  # read when they are needed, not when modules are imported


def _environment(): return {name: value for name, value in os.environ.items() if name not in OWN}


AT_START = _environment()


def run_alone(*command, given=None, cwd=None, text=True, **environment):
    "Run one of the package's commands as a shell does, with these environment variables added."
    return subprocess.run([str(BIN / command[0]), *map(str, command[1:])], input=given, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=text)


def run(*command, given=None, cwd=None, text=True, **environment):
    "Run one of the package's commands, or `python` and a script; in a fork, but where what was imported there might have read another environment."
    if not {*environment} <= {*READ_LATE} or _environment() != AT_START: return run_alone(*command, given=given, cwd=cwd, text=text, **environment)
    return _ask("command", list(map(str, command)), given, cwd or os.getcwd(), text, environment)


def run_notebook(path):
    "Run a notebook as `nbdev_test` does; its exit status is 0 where every cell ran and every assertion held."
    return _ask("notebook", [str(path)], None, ROOT, True, {})


def _ask(kind, command, given, cwd, text, environment):
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("in", "out", "err")]
        files[0].write_bytes(given.encode() if isinstance(given, str) else given or b"")
        server = _server()
        print(json.dumps(dict(kind=kind, command=command, cwd=str(cwd), files=[str(file) for file in files], environment=environment)), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        if not answer: raise RuntimeError("the process that runs commands and notebooks has ended")
        said = [file.read_bytes() for file in files[1:]]
    return subprocess.CompletedProcess(command, int(answer), *([text.decode() for text in said] if text else said))


@cache
def _server():
    return subprocess.Popen([sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _serve():
    "Answer until nobody asks any more."
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot  # noqa: F401
    import nbdev.showdoc  # noqa: F401
    import transfer_nbs.all  # noqa: F401
    import transfer_nbs.commands  # noqa: F401
    for path in (ROOT / "transfer_nbs").glob("[a-z]*.py"): __import__(f"transfer_nbs.{path.stem}")
    questions, answers = open(os.dup(0)), open(os.dup(1), "w")  # the streams themselves are a fork's own
    gc.freeze()
    for line in questions:
        if not (child := os.fork()): os._exit(_status(**json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _status(**asked):
    "What Python would end with, without the second that it takes to put away every module."
    status = 1
    try: status = _carry_out(**asked) or 0
    except SystemExit as stop:
        status = stop.code or 0
        if isinstance(status, str): status = print(status, file=sys.stderr) or 1  # as Python does
    except BaseException: traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr): stream.flush()
    return status


def _carry_out(kind, command, cwd, files, environment):
    for stream, (file, flags) in enumerate(zip(files, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_APPEND] * 2))):
        os.dup2(os.open(file, flags), stream)
    os.chdir(cwd)
    os.environ.update(environment)
    tempfile.tempdir = None  # looked for again
    if kind == "notebook":
        from nbdev.config import get_config
        from nbdev.test import test_nb
        os.environ["TQDM_DISABLE"] = "1"
        passed, _ = test_nb(Path(command[0]), skip_flags=get_config().tst_flags.split(), basepath=get_config().config_path)
        return not passed
    if command[0] == "python":
        sys.argv = command[1:]
        sys.path.insert(0, str(Path(command[1]).parent))
        runpy.run_path(command[1], run_name="__main__")
        return 0
    sys.argv = [str(BIN / command[0]), *command[1:]]
    from transfer_nbs.commands import main
    return main(command[0].removeprefix("transfer_"))


if __name__ == "__main__": _serve()
