"""Run a command, and see what a kill or a power cut at any moment would leave on the disk.

`Commands` keeps a process in which the package is imported already, with tests/kills.c preloaded, and runs each command in a fork of
it: in half a second instead of five. All that a command writes must lie below one folder, the area. Its log lists every call that
changes something there; at chosen calls the command is stopped, the area is copied as it is at that moment, and the command goes on.
The last of the chosen calls may kill it for good.

`Disk` replays a log, and knows at each moment what a power cut could leave: content that was not synced is empty or zeros, and names
that were given or taken since their folder was synced may be there or not, in each folder from some moment on.
"""

import importlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

MODULES = "split clothes check commands compare_command predict fit_command bundle formulas pretrain".split()
LATER = "scipy.stats statsmodels.stats.multitest captum.attr cleanlab.filter IPython.display".split()  # what the package imports where it is needed
COMPILERS = ("cc", "gcc", "clang")
PLAN = struct.Struct("5q1024s1024s1024s")  # `struct plan` of kills.c


def why_not() -> str:  # "" where it works
    "Why commands can't be stopped at single calls here."
    if sys.platform != "linux": return "LD_PRELOAD and /proc are Linux's"
    return "" if any(map(shutil.which, COMPILERS)) else f"no C compiler: install one of {', '.join(COMPILERS)}"


# What is seen


class Call(NamedTuple):
    "A line of the log."
    number: int  # from 1
    name: str  # create, write, truncate, sync, rename, link, symlink, unlink, mkdir, rmdir, utime or chmod
    path: str  # in the area, relative to it; "" for what lies outside
    other: str  # of a rename or a link: the new name; of a symbolic link: what it leads to
    size: int  # bytes of a write


class Place(NamedTuple):
    "Where to stop."
    number: int  # of the call
    half: bool = False  # of a write: after half of its bytes; else just before the call

    def __str__(self): return f"{'in the middle of' if self.half else 'before'} call {self.number}"


def read_log(
    log: Path,  # written by kills.c
    area: Path,
) -> list[Call]:  # those that succeeded
    def relative(path): return os.path.relpath(path, area) if Path(path).is_relative_to(area) else ""
    calls = {}
    for line in log.read_text().splitlines():
        number, name, *rest = line.split("\t")
        if name == "failed":
            del calls[int(number)]
            continue
        path, other, size = rest
        calls[int(number)] = Call(int(number), name, relative(path), other if name == "symlink" else other and relative(other), int(size))
    return [calls[number] for number in sorted(calls)]


def copy_area(
    area: Path,
    copy: Path,  # where nothing is yet
) -> None:
    "Copy all files as they are; large ones that have their final name already, and that nobody writes to any more, are linked."
    def copy_one(source, target, *_):
        inner = Path(source).relative_to(area)
        if hidden(inner) or os.path.getsize(source) < 2**16: shutil.copy2(source, target)
        else: os.link(source, target)
    shutil.copytree(area, copy, symlinks=True, copy_function=copy_one)


def hidden(path: str | Path) -> bool:
    "Whether a path, or a folder that it is in, begins with a dot: such names are nobody's results."
    return any(part.startswith(".") for part in Path(path).parts)


# What a power cut would leave


class Node:
    "A file, a link or a folder, whatever its name is by now."
    def __init__(self, folder: bool = False, link: str | None = None):
        self.folder, self.link, self.names = folder, link, {}  # names: what a folder holds now, as the running system sees it
        self.dirty, self.written, self.synced = False, 0, 0  # whether content isn't synced; bytes, and how many of them are safe
        self.stashed = None  # the call that destroyed it

    def below(self, path: Path = Path()):  # it, and all that it holds, with paths
        yield path, self
        for name, node in self.names.items(): yield from node.below(path / name)


@dataclass
class Change:
    "Names that were given or taken at once; a None takes the name away."
    names: list[tuple[Node, str, Node | None]]
    synced: bool = False


class Disk:
    "An area as the running system sees it, and what of it is safe."
    def __init__(
        self,
        area: Path,  # as it is before a command begins: all of it is safe
        *,
        unimportant: str = "cache",  # a folder in it of which everything may be lost
    ):
        self.root, self.changes, self.troubles, self.unimportant = self._scan(area), [], [], unimportant
        self.unseen = []  # files that came by calls that the log lacks
        self.safe = {node: dict(node.names) for _, node in self.root.below() if node.folder}

    def _scan(self, path: Path) -> Node:
        if path.is_symlink(): return Node(link=os.readlink(path))
        node = Node(folder=path.is_dir())
        if node.folder: node.names = {inner.name: self._scan(inner) for inner in path.iterdir()}
        else: node.written = node.synced = path.stat().st_size
        return node

    def _find(self, path: str) -> Node | None:
        node = self.root
        for name in Path(path).parts: node = node and node.names.get(name)
        return node

    def _name(self, path: str, node: Node | None) -> tuple[Node, str, Node | None]:  # for a Change
        "Give a name, or take it away."
        folder, name = self._find(os.path.dirname(path)), os.path.basename(path)
        if node: folder.names[name] = node
        else: folder.names.pop(name, None)
        return folder, name, node

    def _appear(self, path: str) -> Node:
        "A file whose making the log lacks: taken for a rename of the hidden one in its folder that was written last, or for one that isn't synced."
        folder, node, names = self._find(os.path.dirname(path)), Node(), []
        node.dirty, node.written = True, 2**62
        for name, inner in list(folder.names.items())[::-1]:
            if not inner.dirty or not hidden(name): continue
            node, names = inner, [self._name(os.path.join(os.path.dirname(path), name), None)]
            break
        self.unseen.append(path)
        self.changes.append(Change([*names, self._name(path, node)]))
        return node

    def apply(self, call: Call) -> None:
        "What a call does; troubles are noted."
        node = self._find(call.path) if call.path else None
        if not node and call.path and call.name in ("write", "truncate", "sync", "unlink", "rename"): node = self._appear(call.path)
        if call.name in ("create", "mkdir", "symlink"):
            new = Node(call.name == "mkdir", call.other if call.name == "symlink" else None)
            self.changes.append(Change([self._name(call.path, new)]))
        elif call.name in ("write", "truncate"):
            if call.name == "truncate": node.written = node.synced = 0
            node.dirty, node.written = True, node.written + call.size
            if not hidden(call.path): self.troubles.append(f"call {call.number}: {call.path} is written under its final name")
        elif call.name == "sync":
            node.dirty, node.synced = False, node.written
            for change in self.changes: change.synced |= any(folder is node for folder, _, _ in change.names)
        elif call.name in ("unlink", "rmdir"):
            if self._matters(call.path): self._check_safe(call)
            node.stashed = call.number
            self.changes.append(Change([self._name(call.path, None)]))
        elif call.name in ("rename", "link"):
            node, old = node or Node(), call.other and self._find(call.other)
            if old: old.stashed = call.number
            names = [self._name(call.path, None)] if call.path and call.name == "rename" else []
            if call.other: names.append(self._name(call.other, node))
            self.changes.append(Change(names))
            if not hidden(call.other): self._check_whole(call, node)

    def _matters(self, path: str | Path) -> bool: return not hidden(path) and Path(path).parts[:1] != (self.unimportant,)

    def _check_whole(self, call: Call, node: Node) -> None:
        inner = [inner for _, inner in node.below()]
        loose = any(folder in inner for change in self.changes if not change.synced for folder, _, _ in change.names)
        if any(inner.dirty for inner in inner) or loose: self.troubles.append(f"call {call.number}: {call.other} gets its name before it is on the disk")

    def unsafe(self) -> list[str]:
        "Names that matter, and that a power cut could take away or empty."
        paths = {node: path for path, node in self.root.below() if self._matters(path)}
        new = {node for change in self.changes if not change.synced for _, _, node in change.names}
        return sorted(str(path) for node, path in paths.items() if node in new or node.dirty)

    def _check_safe(self, call: Call) -> None:
        if unsafe := self.unsafe(): self.troubles.append(f"call {call.number}: {call.path} is removed before {unsafe[0]} is on the disk")

    def cut(
        self,
        lost: str,  # "content" that isn't synced, all "names" that are not, or "some" of them
        dice: random.Random,
    ) -> dict[Node, dict[str, Node]]:  # what the folders on the disk hold
        "What a power cut may leave now."
        disk, count, limit = {folder: dict(names) for folder, names in self.safe.items()}, {}, {}
        for change in self.changes:
            for folder, _, _ in change.names if not change.synced else (): count[folder] = count.get(folder, 0) + 1
        for folder, most in count.items(): limit[folder] = dict(content=most, names=0).get(lost, dice.randint(0, most))
        for change in self.changes:
            stays = change.synced or all(limit[folder] > 0 for folder, _, _ in change.names)
            for folder, name, node in change.names:
                if not change.synced: limit[folder] = limit[folder] - 1 if stays else 0
                if not stays: continue
                names = disk.setdefault(folder, {})
                if node: names[name] = node
                else: names.pop(name, None)
        return disk

    def build(
        self,
        disk: dict[Node, dict[str, Node]],  # of `cut`
        place: Path,  # where nothing is yet
        *,
        copy: Path,  # of the area at that moment
        stash: Path,
        zeros: bool,  # whether content that isn't synced is zeros; else it is empty
    ) -> None:
        "Make the area as a power cut left it."
        now = {node: copy / path for path, node in self.root.below()}
        def make(node, path):
            if node.link is not None: return os.symlink(node.link, path)
            if node.folder:
                path.mkdir()
                for name, inner in disk.get(node, {}).items(): make(inner, path / name)
                return
            source = now.get(node) or stash / str(node.stashed)
            if not node.dirty: return shutil.copy2(source, path)
            safe = source.read_bytes()[:node.synced] if node.synced else b""
            path.write_bytes(safe + bytes(min(node.written, 10**6) - len(safe) if zeros else 0))
        make(self.root, place)


# The process that runs the commands


class Commands:
    "Runs commands in forks of one process, which it starts."
    def __init__(
        self,
        scratch: Path,  # for the library, logs and outputs
    ):
        self.scratch, library = scratch, scratch / "kills.so"
        compiler = next(filter(None, map(shutil.which, COMPILERS)))
        subprocess.run([compiler, "-O1", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("kills.c"), "-ldl"], check=True)
        plan = scratch / "plan"
        plan.write_bytes(bytes(PLAN.size))
        environment = {**os.environ, "LD_PRELOAD": str(library), "KILLS_PLAN": str(plan), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self.process = subprocess.Popen([sys.executable, __file__, plan], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def run(
        self,
        script: str,  # what the command's own script does, such as "from transfer_nbs.commands import main; main('split')"
        *arguments: str,  # of the command line
        area: Path,  # what to watch
        environment: dict[str, str] | None = None,  # what to set in it beside what is set here
        copies: dict[Place, Path] | None = None,  # where to stop, and where to copy the area to then; the places in order
        kill: Place | None = None,  # where to kill it, after all the others
    ) -> "Run":
        "Run a command to its end, or to where it is killed."
        for name in ("log", "output"): (self.scratch / name).write_text("")
        stash = Path(tempfile.mkdtemp(prefix="stash-", dir=self.scratch))
        stops = [(*place, str(copy)) for place, copy in (copies or {}).items()] + ([(*kill, None)] if kill else [])
        job = dict(script=script, arguments=list(map(str, arguments)), area=str(area), environment=environment or {}, stops=stops, scratch=str(self.scratch), stash=str(stash))
        print(json.dumps(job), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer: raise RuntimeError("the process that runs the commands has ended")
        return Run(int(answer), (self.scratch / "output").read_text(errors="replace"), read_log(self.scratch / "log", area), stash)


class Run(NamedTuple):
    "How a command ended."
    status: int  # its exit status; negative: the signal that killed it
    output: str  # what it wrote to standard output and standard error
    calls: list[Call]
    stash: Path  # holds what was removed and replaced, by the number of the call


def serve(plan: Path) -> None:
    "Read jobs from standard input, a line each, and answer each with its exit status."
    with open(plan, "r+b") as file: shared = mmap.mmap(file.fileno(), PLAN.size)
    for name in MODULES: importlib.import_module(f"transfer_nbs.{name}")
    for name in LATER: importlib.import_module(name)
    Image.init()
    answers, lines = os.fdopen(os.dup(1), "w"), sys.stdin
    for line in lines:
        job = json.loads(line)
        print(carry_out(job, shared), file=answers, flush=True)


def carry_out(job: dict, shared: mmap.mmap) -> int:
    scratch, stops = Path(job["scratch"]), list(job["stops"])
    def set_next():
        number, half, copy = stops[0] if stops else (0, False, None)
        shared[16:40] = struct.pack("3q", number, half, signal.SIGSTOP if copy else signal.SIGKILL)
    shared[:] = PLAN.pack(0, 0, 0, 0, 0, *(os.fsencode(path) for path in (job["area"], scratch / "log", job["stash"])))
    set_next()
    child = os.fork()
    if not child: os._exit(run_command(job, shared))
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status): return os.waitstatus_to_exitcode(status)
        copy_area(Path(job["area"]), Path(stops.pop(0)[2]))
        set_next()
        os.killpg(child, signal.SIGCONT)


def run_command(job: dict, shared: mmap.mmap) -> int:  # its exit status
    "What the fork does."
    os.setpgid(0, 0)
    output = os.open(Path(job["scratch"], "output"), os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2): os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(job["environment"])
    sys.argv = ["command", *job["arguments"]]
    main = dict(__name__="__main__", __file__="command")  # a command reads its options where it is called by a script
    signal.alarm(300)
    status = 0
    shared[0:8] = struct.pack("q", 1)
    try: exec(compile(job["script"], "command", "exec"), main)
    except SystemExit as stop: status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr): stream.flush()
    shared[0:8] = struct.pack("q", 0)
    return status


if __name__ == "__main__": serve(Path(sys.argv[1]))
