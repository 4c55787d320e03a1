"""Each command that writes, killed or without power at any moment: the same command then ends as if nothing had happened.

By default a few of the moments are tried. TRANSFER_KILLS=20 tries twenty of each command, TRANSFER_KILLS=all tries all, and
TRANSFER_SEED repeats a sample.
"""

import hashlib
import json
import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import kills
import pandas as pd
import pytest
import torch
import torchvision
from kills import Call, Commands, Disk, Place, Run
from PIL import Image

from transfer_nbs.clothes import Camouflage, make_clothes

pytestmark = pytest.mark.skipif(bool(kills.why_not()), reason=kills.why_not())
HOW_MANY = os.environ.get("TRANSFER_KILLS", "")  # moments of each command, or "all"; "": a few
SEED = int(os.environ.get("TRANSFER_SEED", random.SystemRandom().randrange(10**6)))
MEASURED = ["seconds", "images_per_second", "peak_memory_mb"]  # what differs between two runs


@dataclass(frozen=True)
class Case:
    "A command that writes."
    function: str  # module and name; of a command "commands" and what it is called there
    arguments: str  # AREA, IMAGES, WEIGHTS and BUNDLE stand for paths
    images: str = ""  # where in the area a copy of the images lies, with two broken ones; "": nowhere
    first: str = ""  # arguments of the same command, to be run before
    before: str = ""  # Python to run before it
    free: tuple[str, ...] = ()  # what may differ from an undisturbed run
    appended: str = "none"  # a list in the area, of which half a last line is left out when it is read
    unseen: str = " "  # names of files that come and go by calls past libc, as a regular expression
    over: str = ""  # what the command may say instead, where it was killed when all was done


SMALL = "IMAGES --size 32 --device cpu --precision float32 --arch shufflenet_v2_x0_5 --weights WEIGHTS"
CASES = {
    "split": Case("commands:split", "IMAGES AREA/split"),
    "split, copied": Case("commands:split", "IMAGES AREA/new/split --mode copy"),
    "clothes": Case("commands:clothes", "AREA/new/clothes --n 4 --n-valid 2 --size 16"),
    "practice data": Case("clothes:practice_folder", "", before="from functools import partial; from transfer_nbs.clothes import Patterns; practice_folder = partial(practice_folder, Patterns(n=4, n_valid=2, size=16))"),
    "compare": Case("commands:compare", f"{SMALL} --recipes bn_eval,from_scratch --seeds 1 --epochs 1 --out AREA/new/out"),
    "fit": Case("commands:fit", f"{SMALL} --recipe bn_eval --epochs 2 --test_fraction 0.2 --out AREA/new/bundle",
                unseen=r"\.tmp\w+$|/model\.safetensors$"),  # safetensors renames by a system call of its own
    "predict": Case("commands:predict", "BUNDLE IMAGES --csv AREA/answers.csv --json AREA/answers.json"),
    "check": Case("commands:check", "AREA/mine --csv AREA/found.csv --json AREA/found.json --quarantine AREA/quarantine", images="mine",
                  free=("found.csv", "found.json"), appended="quarantine/moved.jsonl"),  # what was moved isn't found again
    "restore": Case("commands:check", "AREA/mine --restore AREA/quarantine/moved.jsonl", images="mine", first="AREA/mine --quarantine AREA/quarantine",
                    over="is not a list that transfer_check wrote (no file)"),
    "pretrain": Case("commands:pretrain", "--surfaces 2 --shapes 2 --drawings 6 --views 8 --batch_size 4 --size 48 --device cpu --out AREA/new/pretrain",
                     before="import transfer_nbs.pretrain as room; room.BUNDLED_ARCH, room._practice_accuracy = 'shufflenet_v2_x0_5', lambda learner, images: 0.5"),  # small; no probe
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory): return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def commands(scratch):
    commands = Commands(scratch)
    yield commands
    commands.close()


@pytest.fixture(scope="module")
def places(scratch, commands):
    "Images, weights and a bundle, which no command may change; and a cache that knows how fast this machine is."
    make_clothes(scratch / "images", Camouflage(n=16, size=40), workers=1)
    for name in ("images/camouflage_clothes/broken.jpg", "images/normal_clothes/empty.png"): (scratch / name).touch()
    shutil.copytree(scratch / "images", scratch / "mine")
    for name in ("broken.jpg", "empty.png"): next((scratch / "images").rglob(name)).unlink()
    torch.manual_seed(0)
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), scratch / "weights.pth")
    places = dict(AREA=scratch / "area", IMAGES=scratch / "images", WEIGHTS=scratch / "weights.pth", BUNDLE=scratch / "bundle")
    run_case(commands, places, CASES["fit"])
    (places["AREA"] / "new" / "bundle").rename(places["BUNDLE"])
    for entry in (places["AREA"] / "cache/transfer_nbs/computed").glob("precision-*"): entry.rename(scratch / entry.name)
    return places


def prepare(case: Case, places: dict[str, Path], commands: Commands) -> None:
    "Make the area as it is before the command begins."
    area = places["AREA"]
    shutil.rmtree(area, ignore_errors=True)
    (area / "cache/transfer_nbs/computed").mkdir(parents=True)
    for entry in area.parent.glob("precision-*"): shutil.copytree(entry, area / "cache/transfer_nbs/computed" / entry.name)
    if case.images: shutil.copytree(area.parent / "mine", area / case.images)


def run_case(commands: Commands, places: dict[str, Path], case: Case, arguments: str | None = None, **how) -> Run:
    module, name = case.function.split(":")
    arguments = case.arguments if arguments is None else arguments
    for word, path in places.items(): arguments = arguments.replace(word, str(path))
    call, name = (f"main({name!r})", "main") if module == "commands" else (f"{name}()", name)
    script = f"from transfer_nbs.{module} import {name}\n{case.before}\n{call}"
    environment = dict(XDG_CACHE_HOME=str(places["AREA"] / "cache"), TQDM_DISABLE="1")
    return commands.run(script, *arguments.split(), area=places["AREA"], environment=environment, **how)


def content(path: Path) -> str | dict:
    "What a file holds, without what was measured."
    if path.is_symlink(): return f"link to {os.readlink(path)}"
    if path.is_dir(): return "folder"
    if path.name == "compare.png":
        with Image.open(path) as image: image.load()
        return "image"
    if path.parent.name == "runs": return {name: dropped(part) for name, part in json.loads(path.read_text()).items()}
    if path.name == "resnet18_formulas.json": return dropped({**json.loads(path.read_text()), "minutes": 0, "date": 0, "log": 0, "hardware": 0})  # it says how fast bfloat16 was
    if path.name == "checkpoint.pt": return digest({**torch.load(path), "seconds": 0, "log": 0})
    if path.name == "resnet18_formulas.md": return path.read_text()[:20]
    if path.name in ("results.csv", "summary.csv"): return pd.read_csv(path).drop(columns=MEASURED, errors="ignore").to_csv()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(value) -> str:
    "Of tensors in dictionaries and lists."
    if isinstance(value, dict): value = list(value.items())
    if isinstance(value, (list, tuple)): value = " ".join(map(digest, value))
    return hashlib.sha256(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()).hexdigest()


def dropped(part): return {name: value for name, value in part.items() if name not in MEASURED} if isinstance(part, dict) else part


def contents(area: Path, case: Case) -> dict[str, str | dict]:
    "All that a command left, apart from the cache, and from empty hidden files: locks, and what filelock makes to learn whether it can lock."
    paths = (path for path in area.rglob("*") if path.relative_to(area).parts[0] != "cache"
             and not (path.name.endswith(".lock") or path.name.startswith(".filelock-probe-")))
    return {str(path.relative_to(area)): "" if str(path.relative_to(area)) in case.free else content(path) for path in sorted(paths)}


def kind(call: Call) -> tuple:
    "Calls are of one kind where only digits differ."
    return call.name, *(re.sub(r"[0-9a-f]{8,}|\d+|tmp\w+|unfinished-\w+", "#", path) for path in (call.path, call.other))


def choose(calls: list[Call], dice: random.Random) -> list[Place]:
    "Where to kill: the first call and the last, and some more; by default four of the kinds that move or remove a result, and any other."
    every = [Place(call.number, half) for call in calls for half in (False, True)[:1 + (call.name == "write" and call.size > 1)]]
    if HOW_MANY == "all": return every
    results = [call for call in calls if call.name in ("rename", "unlink", "rmdir") and not call.path.startswith("cache/")]
    kinds = list({kind(call): Place(call.number) for call in results}.values()) if not HOW_MANY else []
    return sorted({every[0], every[-1], *dice.sample(kinds, min(4, len(kinds))), *dice.sample(every, min(int(HOW_MANY or 1), len(every)))})


@pytest.fixture(scope="module")
def undisturbed(places, commands):
    "For each command that was asked for: what is there before and after it, and its calls."
    done = {}
    def get(name):
        if name in done: return done[name]
        case, area = CASES[name], places["AREA"]
        prepare(case, places, commands)
        if case.first: assert run_case(commands, places, case, case.first).status == 0
        before = area.with_name(f"before {name}")
        shutil.copytree(area, before, symlinks=True)
        run = run_case(commands, places, case)
        assert run.status == 0, run.output
        done[name] = before, contents(area, case), run.calls, sizes(area)
        return done[name]
    return get


def sizes(area: Path) -> dict[str, int]:
    return {str(path.relative_to(area)): path.stat().st_size if path.is_file() and not path.is_symlink() else 0 for path in area.rglob("*")}


@pytest.mark.parametrize("name", CASES)
def test_killed(name, places, commands, undisturbed):
    "Killed before a call, or in the middle of a write, and given again."
    print(f"TRANSFER_SEED={SEED}")
    case, area, images = CASES[name], places["AREA"], sizes(places["IMAGES"])
    before, expected, calls, _ = undisturbed(name)
    chosen = choose(calls, random.Random(f"{SEED} {name}"))
    copies = {place: area.with_name(f"copy {place}") for place in chosen}
    put_there(before, area, link=False)
    killed = run_case(commands, places, case, copies=dict(list(copies.items())[:-1]), kill=chosen[-1])
    area.rename(copies[chosen[-1]])
    try:
        assert killed.status == -9, killed.output
        wrong = {}
        for place, copy in copies.items():
            put_there(copy, area)
            again = run_case(commands, places, case)
            call = next(call for call in killed.calls if call.number == place.number) if place != chosen[-1] else place
            if case.over and case.over in again.output: continue
            if again.status: wrong[f"{place} ({call})"] = f"exit status {again.status}: {again.output[-400:]}"
            elif (found := contents(area, case)) != expected: wrong[f"{place} ({call})"] = differences(found, expected)
        assert not wrong, f"{len(wrong)} of {len(chosen)}:\n" + "\n".join(f"- {place}: {what}" for place, what in wrong.items())
        assert sizes(places["IMAGES"]) == images
    finally:
        for copy in copies.values(): shutil.rmtree(copy, ignore_errors=True)


def put_there(copy: Path, area: Path, link: bool = True) -> None:
    "Give the area the state of a copy, which is used up; or not, where it isn't to be linked."
    shutil.rmtree(area, ignore_errors=True)
    if link: copy.rename(area)
    else: shutil.copytree(copy, area, symlinks=True)


def differences(found: dict, expected: dict) -> str:
    return "; ".join(f"{path} is {'other' if path in found and path in expected else 'too much' if path in found else 'missing'}"
                     for path in sorted({*found, *expected}) if found.get(path) != expected.get(path))


@pytest.mark.parametrize("name", CASES)
def test_order_of_calls(name, undisturbed, places):
    "Nothing gets its name before it is on the disk, nothing is removed before what follows it is safe, and in the end all of it is."
    before, _, calls, after = undisturbed(name)
    disk = Disk(before)
    for call in calls: disk.apply(call)
    found = {str(path): node.written for path, node in disk.root.below() if path.parts}
    assert [path for path in [*disk.unseen, *(found.keys() ^ after.keys())] if not re.search(CASES[name].unseen, path)] == [], "calls that the log lacks"
    assert [path for path, size in after.items() if found.get(path, size) < size] == [], "writes that the log lacks"
    assert [trouble for trouble in disk.troubles if f"{CASES[name].appended} is written under its final name" not in trouble] == []
    assert disk.unsafe() == []


@pytest.mark.parametrize("name", CASES)
def test_power_cut(name, places, commands, undisturbed):
    "The power fails, and what wasn't synced is lost, or part of it."
    print(f"TRANSFER_SEED={SEED}")
    case, area, dice = CASES[name], places["AREA"], random.Random(f"{SEED} {name} power")
    before, expected, calls, _ = undisturbed(name)
    chosen = choose(calls, dice)
    if not HOW_MANY: chosen = sorted(dice.sample(chosen, min(2, len(chosen))))
    copies = {place: area.with_name(f"copy {place}") for place in chosen}
    put_there(before, area, link=False)
    run = run_case(commands, places, case, copies=copies)
    assert run.status == 0, run.output
    tried, wrong, disk, done = set(), {}, Disk(before), 0
    try:
        for place, copy in copies.items():
            while done < len(run.calls) and run.calls[done].number < place.number + place.half:
                disk.apply(run.calls[done])
                done += 1
            for lost in ("content", "names", "some") if HOW_MANY else (dice.choice(("content", "names", "some")),):
                state, zeros = disk.cut(lost, dice), dice.random() < 0.5
                described = describe(state, disk)
                if described in tried: continue
                tried.add(described)
                shutil.rmtree(area)
                disk.build(state, area, copy=copy, stash=run.stash, zeros=zeros)
                again = run_case(commands, places, case)
                if case.over and case.over in again.output: continue
                if again.status: wrong[f"{place}, {lost}"] = f"exit status {again.status}: {again.output[-400:]}"
                elif (found := contents(area, case)) != expected: wrong[f"{place}, {lost}"] = differences(found, expected)
        assert not wrong, f"{len(wrong)} of {len(tried)}:\n" + "\n".join(f"- {place}: {what}" for place, what in wrong.items())
    finally:
        for copy in copies.values(): shutil.rmtree(copy, ignore_errors=True)


def describe(state, disk) -> frozenset:
    "The same for the same files under the same names."
    def below(node, path):
        yield path, id(node), node.dirty
        for name, inner in state.get(node, {}).items(): yield from below(inner, f"{path}/{name}")
    return frozenset(below(disk.root, ""))
