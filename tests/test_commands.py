"""The commands, driven from outside as a user does: on small data, end to end, and with everything that users get wrong."""

import dataclasses
import inspect
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch
from forks import BIN, run, run_alone
from PIL import Image

from transfer_nbs.backbone import feature_count
from transfer_nbs.cache import cache_folder
from transfer_nbs.check import run_check
from transfer_nbs.checkpoint import FitSettings
from transfer_nbs.clothes import TASKS
from transfer_nbs.commands import (RECIPE_NAMES, app, main, transfer_check, transfer_clothes, transfer_compare, transfer_fit,
                                   transfer_predict, transfer_pretrain, transfer_split)
from transfer_nbs.compare import CompareSettings
from transfer_nbs.console import user_errors
from transfer_nbs.data import read_folder
from transfer_nbs.hardware import choose_precision
from transfer_nbs.predict import predict_files
from transfer_nbs.pretrain import PretrainSettings
from transfer_nbs.recipes import RECIPES, recipe_names
from transfer_nbs.fit_command import DEFAULT_RECIPE
from transfer_nbs.settings import TrainSettings
from transfer_nbs.split_folder import split_folder

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "real"
RESULTS = "recipe,seed,valid_accuracy,valid_correct,valid_total,trained_parameters,seconds,images_per_second,peak_memory_mb,balanced_accuracy,diverged".split(",")
MEASURED = ["seconds", "images_per_second", "peak_memory_mb"]
QUICK = ["--device", "cpu", "--epochs", "1", "--seeds", "2", "--size", "32", "--recipes", "bn_eval,deeper_head,from_scratch"]


def assert_one_line_error(done, *words):
    "Exit status 2 and a single line on standard error that holds all of the words."
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in lines[0], done.stderr
    for word in words: assert str(word) in lines[0], lines[0]


@pytest.fixture(scope="session")
def clothes(tmp_path_factory):
    "Sixty drawn figures of 40 pixels, in two classes."
    folder = tmp_path_factory.mktemp("data") / "clothes"
    done = run("transfer_clothes", folder, "--task", "camouflage", "--n", "60", "--size", "40")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def compared(clothes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    done = run("transfer_compare", clothes, *QUICK, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done


def test_compare_writes_what_it_promises(compared):
    out, done = compared
    results, summary = pd.read_csv(out / "results.csv"), pd.read_csv(out / "summary.csv")
    assert list(results) == RESULTS and len(results) == 6
    assert list(summary) == "recipe,runs,mean,low,high,errors,seconds,verdict,balanced_accuracy".split(",") and len(summary) == 3
    assert (summary.low <= summary["mean"]).all() and (summary["mean"] <= summary.high).all()
    assert (summary.verdict == "best").sum() == 1
    assert (results.valid_correct / results.valid_total - results.valid_accuracy).abs().max() < 1e-6
    assert set(json.loads((out / "run.json").read_text())["settings"]["recipes"]) == set(summary.recipe)
    with Image.open(out / "compare.png") as picture: assert picture.width > 500
    assert all(name in done.stdout for name in summary.recipe)
    assert not list(out.rglob("*.part"))


def test_compare_twice_gives_the_same(compared, clothes, tmp_path):
    out, _ = compared
    assert run("transfer_compare", clothes, *QUICK, "--out", tmp_path / "again").returncode == 0
    first, again = (pd.read_csv(folder / "results.csv").drop(columns=MEASURED) for folder in (out, tmp_path / "again"))
    pd.testing.assert_frame_equal(first, again)


def test_compare_alone_gives_the_same_as_shared(clothes, tmp_path):
    "A recipe with dropout, alone from an empty cache, is equal to the one that found its features there, after another recipe."
    results = []
    choose_precision(torch.device("cpu"))  # measured by now; an empty cache would measure anew, and beside another test might choose another
    for recipes in ("deeper_head", "bn_eval,deeper_head"):
        for entry in (cache_folder() / "computed").glob("precision-*"):
            shutil.copytree(entry, tmp_path / f"cache {recipes}" / "transfer_nbs" / "computed" / entry.name)
        out = tmp_path / recipes
        done = run("transfer_compare", clothes, *QUICK, "--epochs", "2", "--recipes", recipes, "--out", out, XDG_CACHE_HOME=str(tmp_path / f"cache {recipes}"))
        assert done.returncode == 0, done.stderr
        runs = [json.loads((out / "runs" / f"deeper_head-{seed}.json").read_text()) for seed in range(2)]
        results.append([(run["history"], run["correct"]) for run in runs])
    assert results[0] == results[1]


def test_compare_says_how_it_computes(clothes, tmp_path):
    done = run("transfer_compare", clothes, *QUICK, "--recipes", "bn_eval", "--seeds", "1", "--verbose", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for word in ("bfloat16", "threads", "memory", "torch.compile"): assert word in done.stdout, word


def test_compare_notices_changed_pictures(clothes, tmp_path):
    "Decoded pictures and features are kept: a picture exchanged under its name, with its old time of change, must be seen all the same."
    folder, quick = tmp_path / "clothes", [*QUICK, "--recipes", "bn_eval", "--seeds", "1", "--order", "first"]
    shutil.copytree(clothes, folder)
    histories = []
    for number in range(3):
        assert run("transfer_compare", folder, *quick, "--out", tmp_path / str(number)).returncode == 0
        histories.append(json.loads((tmp_path / str(number) / "runs" / "bn_eval-0.json").read_text())["history"])
        if number == 1:
            for picture in folder.glob("*/*.jpg"):
                stat = picture.stat()
                Image.open(picture).rotate(90).save(picture, quality=95)
                os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert histories[0] == histories[1] != histories[2]


def test_compare_goes_without_a_cache(compared, clothes, tmp_path):
    "Where the user's cache folder can't be made, a temporary one serves, with the same results."
    (tmp_path / "file").write_text("not a folder")
    done = run("transfer_compare", clothes, *QUICK, "--out", tmp_path / "out", XDG_CACHE_HOME=str(tmp_path / "file" / "cache"), TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    again = pd.read_csv(tmp_path / "out" / "results.csv").drop(columns=MEASURED)
    pd.testing.assert_frame_equal(again, pd.read_csv(compared[0] / "results.csv").drop(columns=MEASURED))


@pytest.mark.parametrize("script, options, word", [("beside_others.py", ["--precision", "float8"], "float8"), ("beside_others.py", ["gone"], "gone"), ("beside_others.py", ["--arch", "resnet81"], "resnet81"),
                                                   ("growth.py", ["--only", "recipe"], "recipe"), ("check.py", ["gone"], "gone"), ("sharing.py", ["gone"], "gone"), ("shortcuts.py", ["--seeds", "0"], "seeds"), ("old_classes.py", ["gone", "gone.pth"], "gone"), ("head_first.py", ["--seeds", "0"], "seeds"), ("stages.py", ["--rounds", "0"], "rounds"), ("compiling.py", ["--rounds", "0"], "rounds")])
def test_benchmarks_name_what_is_wrong(script, options, word, tmp_path):
    folder = Path(__file__).resolve().parent.parent / "benchmarks"
    assert_one_line_error(run("python", folder / script, *options, "--out", tmp_path / "out"), word)
    assert not list(tmp_path.glob("out/*"))


def test_compare_goes_on_and_does_not_repeat(compared, clothes, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(compared[0], out)
    before = (out / "results.csv").read_text()
    (out / "runs" / "deeper_head-1.json").unlink()
    (out / "results.csv").unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    done = run("transfer_compare", clothes, *QUICK, "--out", out)
    assert done.returncode == 0 and "5 of 6 runs are there already" in done.stdout + done.stderr
    assert {name: (out / "runs" / name).stat().st_mtime_ns for name in kept} == kept
    again = pd.read_csv(out / "results.csv").drop(columns=MEASURED)
    pd.testing.assert_frame_equal(again, pd.read_csv(compared[0] / "results.csv").drop(columns=MEASURED))
    assert before.splitlines()[0] == (out / "results.csv").read_text().splitlines()[0]


def test_compare_survives_being_killed(compared, clothes, tmp_path):
    "Killed after its first run, without warning, and started again: the same table, and the first run is not repeated."
    out = tmp_path / "killed"
    command = [str(part) for part in (BIN / "transfer_compare", clothes, *QUICK, "--out", out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("runs/*.json")): time.sleep(0.05)
    process.kill()
    assert process.wait() != 0, "it ended before it could be killed"
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("runs/*.json")}
    assert run("transfer_compare", clothes, *QUICK, "--out", out).returncode == 0
    assert {name: (out / "runs" / name).stat().st_mtime_ns for name in kept} == kept
    again = pd.read_csv(out / "results.csv").drop(columns=MEASURED)
    pd.testing.assert_frame_equal(again, pd.read_csv(compared[0] / "results.csv").drop(columns=MEASURED))


def test_compare_refuses_other_settings(compared, clothes):
    out, _ = compared
    before = (out / "results.csv").read_text()
    assert_one_line_error(run("transfer_compare", clothes, *QUICK, "--lr", "0.5", "--out", out), "lr 0.004, not 0.5")
    assert (out / "results.csv").read_text() == before


def test_auto_is_what_the_rule_advises(figures, tmp_path):
    "It takes the place of its name, once, says why, and goes on as the recipe that it is."
    small = ("--seeds", "1", "--epochs", "1", "--size", "32", "--device", "cpu", "--out", tmp_path / "out")
    done = run("transfer_compare", figures[0], "--recipes", "bn_eval, auto,full_bn_frozen", *small)
    assert done.returncode == 0, done.stderr
    assert "auto: full_bn_frozen, because " in done.stdout
    assert list(pd.read_csv(tmp_path / "out" / "summary.csv").recipe) == ["bn_eval", "full_bn_frozen"]
    again = run("transfer_compare", figures[0], "--recipes", "bn_eval,full_bn_frozen", *small)
    assert again.returncode == 0 and "nothing was left to train" in again.stdout
    for wrong, words in {"auto,": "recipes are 'auto,'", "auto,bn_evil": "did you mean bn_eval?"}.items():
        done = run("transfer_compare", figures[0], "--recipes", wrong, *small)
        assert_one_line_error(done, words)
        assert not done.stdout
    done = run("transfer_compare", figures[0], "--recipes", "auto", "--weights", "random", *small[:-1], tmp_path / "random")
    assert "auto: from_scratch, because " in done.stdout and list(pd.read_csv(tmp_path / "random" / "summary.csv").recipe) == ["from_scratch"]


@pytest.mark.slow
def test_compare_names_what_is_wrong(clothes, tmp_path):
    out = ["--out", tmp_path / "out"]
    letter = tmp_path / "letter.pth"
    letter.write_text("no weights")
    (tmp_path / "one" / "only").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "one" / "only" / "a.png")
    assert_one_line_error(run("transfer_compare", tmp_path / "gone", *out), tmp_path / "gone")
    assert_one_line_error(run("transfer_compare", tmp_path / "one", *out), "only one class")
    assert_one_line_error(run("transfer_compare", clothes, "--recipes", "bn_evil", *out), "bn_evil", "bn_eval")
    assert_one_line_error(run("transfer_compare", clothes, "--arch", "resnet81", *out), "resnet81", "resnet18")
    assert_one_line_error(run("transfer_compare", clothes, "--arch", "resnet34", *out), "bundled weights are resnet18's")
    assert_one_line_error(run("transfer_compare", clothes, "--weights", letter, *out), letter, "no checkpoint")
    assert_one_line_error(run("transfer_compare", clothes, "--out", letter), letter, "choose another --out")
    assert not (tmp_path / "out" / "run.json").exists()


def test_imagenet_weights_without_a_network(clothes, tmp_path):
    "No route to the outside: a proxy that refuses every connection."
    offline = dict(https_proxy="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9", TORCH_HOME=str(tmp_path / "hub"))
    done = run("transfer_compare", clothes, "--arch", "mobilenet_v3_small", "--weights", "imagenet", "--out", tmp_path / "out", **offline)
    assert_one_line_error(done, "can't download the ImageNet weights of mobilenet_v3_small", "--weights bundled")


def test_imagenet_weights_from_the_cache(clothes, tmp_path):
    "A file put where the download would have put it is used, without a network."
    from torchvision import models
    weights = models.get_model_weights("mobilenet_v3_small").DEFAULT
    cached = tmp_path / "hub" / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1]
    cached.parent.mkdir(parents=True)
    torch.save(models.mobilenet_v3_small().state_dict(), cached)
    offline = dict(https_proxy="http://127.0.0.1:9", TORCH_HOME=str(tmp_path / "hub"))
    done = run("transfer_compare", clothes, "--arch", "mobilenet_v3_small", "--weights", "imagenet", "--size", "64", "--epochs", "1", "--seeds", "1",
               "--recipes", "bn_eval", "--out", tmp_path / "out", **offline)
    assert done.returncode == 0, done.stderr


def test_split_is_made_once(clothes, tmp_path):
    dest = tmp_path / "split"
    assert run("transfer_split", clothes, dest).returncode == 0
    table = pd.read_csv(dest / "split.csv")
    assert list(table) == ["file", "class", "split", "hash"] and len(table) == 60
    assert (table.groupby("class").split.apply(lambda side: (side == "valid").sum()) == 6).all()
    before = {path: path.lstat().st_mtime_ns for path in dest.rglob("*")}
    assert run("transfer_split", clothes, dest).returncode == 0
    assert {path: path.lstat().st_mtime_ns for path in dest.rglob("*")} == before
    assert_one_line_error(run("transfer_split", clothes, dest, "--seed", "1"), dest, "seed")
    assert run("transfer_compare", dest, *QUICK, "--recipes", "bn_eval", "--out", tmp_path / "out").returncode == 0


def test_pretrain_goes_on(tmp_path):
    tiny = ["--surfaces", "6", "--shapes", "5", "--drawings", "5", "--views", "32", "--batch_size", "16", "--size", "48"]
    assert run("transfer_pretrain", "--out", tmp_path / "a", *tiny).returncode == 0
    card = json.loads((tmp_path / "a" / "resnet18_formulas.json").read_text())
    assert card["settings"]["shapes"] == 5 and card["views"] == 32 and 0 <= card["log"][-1]["source_accuracy"] <= 1
    assert (tmp_path / "a" / "resnet18_formulas.safetensors").stat().st_size < 25e6
    assert_one_line_error(run("transfer_pretrain", "--out", tmp_path / "a", *tiny, "--seed", "1"), "seed")


@pytest.mark.skipif(not (REAL / "hymenoptera").is_dir(), reason=f"the real photographs are not at {REAL}")
def test_real_photographs_with_imagenet_weights(tmp_path):
    "A linear head on ImageNet features tells ants from bees, and the stray GIF is survived."
    done = run("transfer_compare", REAL / "hymenoptera", "--arch", "mobilenet_v2", "--weights", REAL / "weights" / "mobilenet_v2_imagenet.pth",
               "--size", "224", "--seeds", "5", "--recipes", "bn_eval", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "imageNotFound.gif" in done.stderr
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert summary["mean"][0] >= 0.94


# Reading the command line

COMMANDS = [each.name for each in app.registered_commands]
HEAVY = {"torch", "torchvision", "pandas", "matplotlib", "scipy", "PIL", "numpy"}


def module(*arguments, **options):
    "Run `python -m transfer_nbs`."
    return subprocess.run([sys.executable, "-m", "transfer_nbs", *map(str, arguments)], capture_output=True, text=True, **options)


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_and_version_load_no_library(name):
    "Each answers before PyTorch would be loaded, by its own script and as a module."
    script = "import json, sys; from transfer_nbs.commands import main; main(arguments=sys.argv[1:]); json.dump([*sys.modules], sys.stderr)"
    place = [name] if name else []
    for option in ("--help", "-h", "--version"):
        done = subprocess.run([sys.executable, "-c", script, *place, option], capture_output=True, text=True)
        assert done.returncode == 0 and not HEAVY & set(json.loads(done.stderr)), done.stderr
        answers = [module(*place, option)] + ([run_alone(f"transfer_{name}", option)] if name else [])
        for answer in answers: assert (answer.returncode, answer.stderr) == (0, "")
        if option == "--version": assert {answer.stdout for answer in answers} == {f"transfer_nbs {version('transfer_nbs')}\n"}
        else: assert all(answer.stdout.startswith(("Usage: transfer_", "Usage: python -m transfer_nbs")) for answer in answers)


def test_help_is_for_a_terminal():
    "No line is wider than it, no option is missing, and where the pipe was closed nothing is said."
    for name in COMMANDS:
        lines = module(name, "--help").stdout.splitlines()
        assert max(map(len, lines)) <= 80
        own = inspect.signature(globals()[f"transfer_{name}"]).parameters
        assert "".join(lines).count("  --") >= sum(value.default is not inspect.Parameter.empty for value in own.values()) - 1
    late = f"(sleep 0.5; {BIN / 'transfer_compare'} --help; echo $? >&2) | true"
    assert subprocess.run(["bash", "-c", late], capture_output=True, text=True).stderr == "141\n"


def test_hyphens_and_underscores_are_one(clothes, tmp_path):
    "In any option, with a space or with =; what follows a bare -- is not touched."
    (tmp_path / "--my_images").symlink_to(clothes)
    ways = dict(hyphen=["--valid-fraction", "0.3"], underscore=["--valid_fraction", "0.3"], equals=["--valid_fraction=0.3"])
    tables = {}
    for way, options in ways.items():
        done = subprocess.run([BIN / "transfer_split", *options, "--", "--my_images", f"to_{way}"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        tables[way] = (tmp_path / f"to_{way}" / "split.csv").read_text()
    assert len(set(tables.values())) == 1 and tables["hyphen"].count(",valid,") == 18


@pytest.mark.parametrize("script, status", [("print('out'); raise SystemExit", 0), ("raise SystemExit(3)", 3), ("raise SystemExit('a reason')", 1),
                                            ("import os; print(os.getcwd()); 1 / 0", 1), ("import sys; print(sys.stdin.read().upper())", 0)])
def test_a_fork_ends_as_a_process_of_its_own(script, status, tmp_path):
    "What it wrote, to both streams, and its exit status: or the tests would see another program than a user does."
    (tmp_path / "script.py").write_text(script)
    ended = [way("python", tmp_path / "script.py", given="asked", cwd=tmp_path) for way in (run, run_alone)]
    assert {done.returncode for done in ended} == {status} and len({done.stdout for done in ended}) == 1
    assert len({done.stderr.strip().rpartition("\n")[2] for done in ended}) == 1


def test_commands_say_in_a_fork_what_they_say_alone(clothes, tmp_path):
    (tmp_path / "h\u00e4 t\u200b\x1b[31m").mkdir()
    for command in (("transfer_check", clothes), ("transfer_check", tmp_path / "gone"), ("transfer_split", tmp_path / "h\u00e4 t\u200b\x1b[31m", tmp_path / "out")):
        one, other = run(*command), run_alone(*command)
        assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_module_does_what_the_script_does(clothes, tmp_path):
    by_module, by_script = module("split", clothes, tmp_path / "a"), run_alone("transfer_split", clothes, tmp_path / "b")
    assert by_module.returncode == by_script.returncode == 0
    assert by_module.stdout.replace(str(tmp_path / "a"), "") == by_script.stdout.replace(str(tmp_path / "b"), "")
    assert_one_line_error(module("split", tmp_path / "gone", tmp_path / "c"), "transfer_split: ", tmp_path / "gone")


@pytest.mark.parametrize("arguments, words", [
    (["transfer_compare", "--epoch", "3"], ["transfer_compare: no such option: --epoch", "--epochs"]),
    (["transfer_compare", "--batch_sise", "3"], ["no such option: --batch-sise", "--batch-size"]),
    (["transfer_compare", "--a\x1b[2J\nb"], ["no such option", r"\x1b[2J"]),
    (["transfer_compare", "--seeds", "three"], ["--seeds"]),
    (["transfer_compare", "--batch_size=2.5"], ["--batch-size"]),
    (["transfer_compare", "--lr", "a\x1b[2J"], ["--lr"]),
    (["transfer_compare", "--lr"], ["--lr", "argument"]),
    (["transfer_compare", "a", "b\x1b"], ["transfer_compare: ", "extra argument", r"b\x1b"]),
    (["transfer_compare", "--verbose=1"], ["--verbose", "value"]),
    (["transfer_check"], ["transfer_check: missing argument", "FOLDER"]),
    (["transfer_fit", "--recipe", "bn_eval"], ["transfer_fit: missing argument", "FOLDER"]),
    (["transfer_predict", "bundle"], ["transfer_predict: missing argument", "IMAGES"]),
    (["transfer_split", "a", "b", "c"], ["transfer_split: ", "c"]),
    (["transfer_clothes", "a", "--n", "many"], ["--n"]),
    (["transfer_pretrain", "a"], ["transfer_pretrain: ", "a"]),
    ([None, "campare"], ["transfer_nbs: no command 'campare': did you mean compare?"]),
    ([None, "transfer_fits"], ["did you mean fit?"]),
    ([None, "\x1b[2J"], ["transfer_nbs: no command", "compare, check, fit"]),
    ([None, "--vershion"], ["transfer_nbs: no such option: --vershion"]),
    ([None, "split", "--mood", "copy"], ["transfer_split: no such option: --mood", "--mode"])])
def test_typing_errors_are_one_line(arguments, words):
    "On standard error, with exit status 2, and nothing that a terminal would obey."
    name, *rest = arguments
    done = run(name, *rest) if name else module(*rest)
    assert_one_line_error(done, *words)
    assert done.stdout == "" and done.stderr.strip().isprintable()


# What can't be, refused before anything is written

def refused(capsys, command, *arguments) -> str:
    "The one line with which a command refuses, within this process."
    with pytest.raises(SystemExit) as stop: main(command, [str(argument) for argument in arguments])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    return lines[0]


class OutOfMemoryError(RuntimeError): "Named as PyTorch's is."


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
def test_too_little_memory_is_one_line(error, capsys):
    def fail(): raise error
    with pytest.raises(SystemExit) as stop, user_errors("transfer_fit"): fail()
    assert (stop.value.code, capsys.readouterr().err) == (2, "transfer_fit: not enough memory: close other programs, or try smaller images or batches\n")


def test_another_error_of_pytorch_keeps_its_traceback():
    def fail(): raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"), user_errors("transfer_fit"): fail()


def test_an_image_that_memory_cannot_hold():
    "It is not said to need a larger size, as an image that is too small for a network does."
    class Hungry(torch.nn.Conv2d):
        def forward(self, images): raise RuntimeError("can't allocate memory")
    with pytest.raises(RuntimeError, match="can't allocate memory"): feature_count(Hungry(3, 4, 3), size=32)


@pytest.mark.parametrize("name, number", [("seeds", 99999999999999999999), ("epochs", 10**26), ("batch-size", 10**26), ("size", 10**26), ("seeds", 1_000_001)])
def test_far_too_large_numbers_are_refused(name, number, capsys, tmp_path):
    assert refused(capsys, "compare", tmp_path, f"--{name}", number, "--out", tmp_path / "out") == f"transfer_compare: {name.replace('-', '_')} is {number}: it must be 1000000 or less"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [10**26, 2**63, -1])
def test_seeds_that_no_generator_takes(seed, capsys, tmp_path):
    assert f"seed is {seed}: it must be 0 or more, and below 2**63" in refused(capsys, "fit", tmp_path / "images", "--recipe", "bn_eval", "--seed", seed, "--out", tmp_path / "out")
    assert FitSettings("bn_eval", seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize("arguments, words", [
    (["--task", "pairs", "--object-size", "0.6"], "object_size is 0.6; give 0.1 to 0.5"),  # larger ones would cover each other
    (["--n", "99999999999999"], "n is 99999999999999; give 1 to 10000000"), (["--n-valid", "0"], "n_valid is 0; give 1 to 10000000"),
    (["--source", "kaggle", "--task", "pairs"], "task is pairs, which is drawn; leave it out, or --source"),
    (["--task", "camouflage", "--camera", "1"], "the task camouflage can't be changed by camera; leave it out")])
def test_clothes_that_cannot_be_drawn(arguments, words, capsys, tmp_path):
    assert words in refused(capsys, "clothes", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("record, words", [
    ("[]", "has something else in it, and nothing is overwritten"), ("null", "has something else in it"), ("{", "has something else in it"),
    ('{"source": "drawn", "drawing": 1, "n": 2, "size": 16, "seed": 0}', "holds images made with task camouflage instead of patterns; give a new folder")])
def test_clothes_beside_something_else(record, words, capsys, tmp_path):
    (tmp_path / ".clothes.json").write_text(record)
    assert words in refused(capsys, "clothes", tmp_path, "--n", 10, "--n-valid", 10, "--size", 16)
    assert [file.name for file in tmp_path.iterdir()] == [".clothes.json"] and (tmp_path / ".clothes.json").read_text() == record


@pytest.mark.parametrize("option, value, words", [
    ("valid-fraction", "nan", "valid_fraction is nan; it must lie between 0 and 1"), ("valid-fraction", "1.5", "valid_fraction is 1.5"),
    ("order", "sideways", "order is 'sideways'; it must be 'shuffled' or 'first'"), ("test-fraction", "nan", "test_fraction is nan"), ("test-fraction", "1", "test_fraction is 1")])
def test_options_of_a_split_are_checked_where_the_folder_is_split_already(option, value, words, capsys, tmp_path):
    "They would be recorded."
    run("transfer_clothes", tmp_path / "split", "--n", 20, "--n-valid", 10, "--size", 16)
    assert words in refused(capsys, "compare", tmp_path / "split", f"--{option}", value, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_size_of_0_is_not_the_usual_one(capsys, tmp_path):
    assert "size is 0: it must be above 0" in refused(capsys, "compare", tmp_path, "--size", 0, "--out", tmp_path / "out")


@pytest.mark.parametrize("command, arguments, name", [
    ("compare", [""], "FOLDER"), ("compare", ["a", "--out", ""], "--out"), ("compare", ["a", "--weights", ""], "--weights"),
    ("check", ["a", "--csv", ""], "--csv"), ("check", ["a", "--json="], "--json"), ("check", ["a", "--quarantine", ""], "--quarantine"),
    ("check", ["a", "--mend-leaks", ""], "--mend-leaks"), ("check", ["a", "--restore", ""], "--restore"),
    ("fit", ["a", "--from="], "--from"), ("fit", ["a", "--from-run", ""], "--from"), ("fit", ["a", "--tensorboard", ""], "--tensorboard"),
    ("predict", ["", "a.png"], "BUNDLE"), ("predict", ["a", "b.png", ""], "IMAGES"), ("predict", ["a", "b.png", "--csv", ""], "--csv"),
    ("split", ["", "a"], "SOURCE"), ("split", ["a", ""], "DEST"), ("clothes", [""], "DEST"), ("pretrain", ["--out", ""], "--out")])
def test_empty_paths_are_refused(command, arguments, name, capsys, tmp_path, monkeypatch):
    "As a variable of a shell gives them that isn't set."
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, command, *arguments) == f"transfer_{command}: {name} is empty: give a path"
    assert not list(tmp_path.iterdir())


def test_empty_text_that_is_no_path(capsys, tmp_path):
    "Of --without it is the default."
    assert "views is 0" in refused(capsys, "pretrain", "--without", "", "--views", 0, "--out", tmp_path / "out")
    assert "give drawn or kaggle" in refused(capsys, "clothes", tmp_path / "out", "--source", "")


def defaults(function): return {name: value.default for name, value in inspect.signature(function).parameters.items() if value.default is not inspect.Parameter.empty}


def test_defaults_are_those_of_the_package():
    "What a command takes without an option is what the function behind it takes."
    settings, given = TrainSettings(), defaults(transfer_compare)
    for name in "batch_size lr arch weights device precision".split(): assert given[name] == getattr(settings, name)
    assert given["size"] is given["recipes"] is given["epochs"] is None and given["seeds"] == CompareSettings().seeds
    assert RECIPE_NAMES == tuple(RECIPES) and recipe_names("article,baselines") == CompareSettings().recipes
    for name in "order test_fraction alike".split(): assert given[name] == defaults(read_folder)[name]
    fitted = FitSettings(recipe="bn_eval")
    own = {name: value for name, value in defaults(transfer_fit).items() if value is not None}
    assert own == dict(out="runs/bundle", onnx=False, **{name: getattr(fitted, name) for name in ("seed", "balance")})
    behind = {transfer_split: split_folder, transfer_predict: predict_files, transfer_check: run_check}
    for command, function in behind.items():
        shared = set(defaults(command)) & set(defaults(function))
        assert shared and {name: defaults(command)[name] for name in shared} == {name: defaults(function)[name] for name in shared}
    for name, value in defaults(transfer_pretrain).items():
        if name not in ("out", "device"): assert value == getattr(PretrainSettings(), name)


def test_help_of_clothes_says_the_defaults_of_its_tasks():
    said = " ".join(module("clothes", "--help").stdout.split()) + "--"
    for name in defaults(transfer_clothes).keys() - {"task", "source"}:
        values = [str(field.default) for task in TASKS.values() for field in dataclasses.fields(task) if field.name == name]
        option = said[said.index(f"--{name.replace('_', '-')} "):].split(" --")[0]
        assert f"[default: ({'; '.join(dict.fromkeys(values))})]".replace("(1.0)", "(1)").replace("(0.0)", "(0)") in option, option
    assert {name for task in TASKS.values() for name in defaults(task)} == defaults(transfer_clothes).keys() - {"task", "source"}


def test_help_says_the_defaults():
    said = " ".join(module("fit", "--help").stdout.split())
    for name in ("batch_size", "lr", "arch", "weights"): assert f"as in --from, else {getattr(TrainSettings(), name)}" in said
    assert "as in --from, else auto" in said and f"best with --from, else {DEFAULT_RECIPE}" in said
    said = " ".join(module("compare", "--help").stdout.split())
    assert all(name in said for name in RECIPES)
