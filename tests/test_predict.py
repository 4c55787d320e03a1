"""The command that predicts: which images are meant, what is written, and what is never lost."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from bundles import rows_of, run, shell, text, untrained
from test_commands import REAL, assert_one_line_error

from transfer_nbs.bundle import load_bundle, make_bundle, save_bundle
from transfer_nbs.commands import transfer_check
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES, train_recipe
from transfer_nbs.run_folder import valid_classes
from transfer_nbs.data import read_folder
from transfer_nbs.export import export_onnx
from transfer_nbs.files import csv_text, csv_value
from transfer_nbs.commands import transfer_predict
from transfer_nbs.predict import list_images, most_likely
from transfer_nbs.split_folder import split_folder


# The command


NAMES = ["inbox/a.jpg", "inbox/b.jpg", "inbox/c.JPG", "inbox/d.jpg", "inbox/more/e.jpg"]


WAYS = {"files": (NAMES, ""), "folder": (["inbox"], ""), "pattern": (["inbox/**/*.[jJ]*"], ""), "list": (["-"], "\n".join(NAMES)), "null bytes": (["-"], "\0".join(NAMES)),
        "line ends of Windows": (["-"], "\r\n".join([*NAMES, ""])), "mixed": (["inbox/a.jpg", "-", "inbox/more"], "\n".join(NAMES[1:4])), "folder in a list": (["-"], "inbox\n")}


@pytest.mark.filterwarnings("ignore:inbox. skipped what is no image. letter.txt")
@pytest.mark.parametrize("way", WAYS)
def test_files_folders_patterns_and_lists_are_the_same(way, inbox, monkeypatch):
    monkeypatch.chdir(inbox.parent)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(WAYS[way][1].encode())))
    assert list_images(WAYS[way][0]) == NAMES


def test_the_command_takes_places_of_all_kinds(saved, inbox, tmp_path):
    done = text(run(saved, "inbox/[ab].jpg", "-", "inbox/more", "--csv", "out.csv", given=b"inbox/c.JPG\ninbox/gone.jpg\n", cwd=tmp_path))
    assert done.returncode == 1, done.stderr
    table = rows_of(tmp_path / "out.csv")
    assert list(table["file"]) == ["inbox/a.jpg", "inbox/b.jpg", "inbox/c.JPG", "inbox/gone.jpg", "inbox/more/e.jpg"]
    assert [bool(error) for error in table["error"]] == [False, False, False, True, False]
    whole = text(run(saved, "inbox", cwd=tmp_path))
    assert whole.returncode == 0 and "letter.txt" in whole.stderr and len(whole.stderr.splitlines()) == 1


@pytest.mark.filterwarnings("ignore:inbox.. skipped what is no image. letter.txt")
def test_a_pattern_names_each_file_once(inbox, monkeypatch):
    monkeypatch.chdir(inbox.parent)
    assert len(list_images(["inbox/**"])) == len(set(list_images(["inbox/**"])))


def test_broken_pictures_are_rows(saved, inbox, tmp_path):
    sound = (inbox / "a.jpg").read_bytes()
    (inbox / "cut.jpg").write_bytes(sound[:len(sound) // 2])
    (inbox / "empty.png").write_bytes(b"")
    (inbox / "page.jpg").write_text("<html>not found</html>")
    Image.new("1", (1, 100_000)).save(inbox / "strip.png")
    os.symlink("nowhere.jpg", inbox / "link.jpg")
    os.mkfifo(inbox / "pipe.jpg")
    done = text(run(saved, "inbox", "--csv", "out.csv", "--json", "out.json", "--batch_size", 2, cwd=tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    table = rows_of(tmp_path / "out.csv").set_index("file")
    broken = {"cut.jpg": "decoded", "empty.png": "no known image format", "page.jpg": "no known image format", "link.jpg": "No such file"}
    for name, reason in broken.items(): assert reason in table.loc[f"inbox/{name}", "error"] and table.loc[f"inbox/{name}", "answer"] == "", name
    assert set(table.index[table["error"] == ""]) == {f"inbox/{name}" for name in ("a.jpg", "b.jpg", "c.JPG", "d.jpg", "more/e.jpg", "strip.png")}
    assert "10 images, 4 could not be read" in done.stdout and "pipe.jpg" in done.stderr
    assert "no file" in load_bundle(saved).predict(inbox / "pipe.jpg").attrs["errors"][0]
    alone = load_bundle(saved).predict(inbox / "a.jpg")
    assert float(table.loc["inbox/a.jpg", "probability_1"]) == pytest.approx(alone.max(axis=1).item(), abs=1e-5)
    assert {row["file"]: row["probabilities"] for row in json.loads((tmp_path / "out.json").read_text()) if row["error"]} == {f"inbox/{name}": {} for name in broken}
    assert text(run(saved, *(inbox / name for name in broken))).returncode == 1, "nothing but broken pictures"


def test_a_machine_that_never_ran_it(saved, inbox, tmp_path):
    "Nothing is in the user's cache yet, and how to compute has still to be measured; or there can be no cache at all."
    expected = run(saved, inbox / "a.jpg").stdout
    for cache in (tmp_path / "cache", inbox / "letter.txt" / "cache"):
        done = run(saved, inbox / "a.jpg", XDG_CACHE_HOME=str(cache), TMPDIR=str(tmp_path))
        assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.filterwarnings("ignore:.*skipped what is no image. letter.txt")
def test_tables_say_what_predict_says(saved, inbox, tmp_path):
    assert run(saved, inbox, "--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json").returncode == 0
    expected = load_bundle(saved).predict(list_images([str(inbox)]))
    table, rows = rows_of(tmp_path / "out.csv"), json.loads((tmp_path / "out.json").read_text())
    assert list(table) == ["file", "answer", "class_1", "probability_1", "class_2", "probability_2", "error"]
    assert list(table["file"]) == [row["file"] for row in rows] == list(expected.index)
    assert list(table["answer"]) == [row["answer"] for row in rows] == list(expected.idxmax(axis=1))
    assert [list(row["probabilities"]) for row in rows] == table[["class_1", "class_2"]].to_numpy().tolist()
    np.testing.assert_allclose(table["probability_1"], expected.max(axis=1), atol=1e-6)
    np.testing.assert_allclose([sum(row["probabilities"].values()) for row in rows], 1, atol=1e-6)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.filterwarnings("ignore:.*skipped what is no image. letter.txt")
def test_top_and_unsure(inbox, tmp_path):
    path = save_bundle(untrained("bn_eval", ("a", "b", "c", "d")), tmp_path / "bundle")
    table = load_bundle(path).predict(list_images([str(inbox)]))
    threshold = float(table.max(axis=1).median())
    done = text(run(path, inbox, "--top", 2, "--unsure", threshold, "--csv", tmp_path / "out.csv"))
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "out.csv")
    assert list(rows)[2:6] == ["class_1", "probability_1", "class_2", "probability_2"]
    assert 0 < (rows["answer"] == "unsure").sum() < len(rows)
    assert ((rows["answer"] == "unsure") == (table.max(axis=1).to_numpy() < threshold)).all()
    assert (rows["answer"] == rows["class_1"]).sum() == (rows["answer"] != "unsure").sum()
    assert "unsure" in done.stdout
    assert (most_likely(table)["answer"] != "unsure").all()


def test_bad_input_is_one_line(saved, inbox, tmp_path):
    for command, words in {(tmp_path / "gone", inbox): (tmp_path / "gone", "no such folder"), (saved, inbox / "a.jpg", tmp_path / "*.png"): ("*.png", "no image there"),
                           (saved, "-"): ("standard input",)}.items():
        assert_one_line_error(text(run(*command, "--csv", tmp_path / "out.csv", given=b"")), *words)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("options, words", [
    (dict(images=["gone.jpg"]), ("gone.jpg", "no image there")), (dict(bundle="inbox"), ("inbox", "no bundle.json")), (dict(top=0), ("top is 0",)),
    (dict(unsure=80), ("unsure is 80", "0.8")), (dict(batch_size=0), ("batch_size is 0",)), (dict(device="abacus"), ("abacus",)),
    (dict(csv="no/out.csv"), ("no/out.csv", "make it first")), (dict(json="inbox"), ("inbox", "choose another file"))])
def test_bad_options_are_one_line(options, words, saved, inbox, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (inbox / "letter.txt").unlink()
    with pytest.raises(SystemExit) as stopped: transfer_predict(**(dict(bundle=str(saved), images=["inbox"], csv="out.csv") | options))
    said = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(said) == 1 and all(word in said[0] for word in words), said
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.skipif(os.name != "posix", reason="file names are text here")
def test_names_of_files_may_be_any_bytes(saved, inbox, tmp_path):
    names = [b"caf\xe9.jpg", b"two\nlines.jpg", b"\x1b[31mred.jpg"]
    for name in names: shutil.copy(inbox / "a.jpg", os.fsencode(inbox) + b"/" + name)
    done = run(saved, *(os.fsdecode(os.fsencode(inbox) + b"/" + name) for name in names), "--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout and len(done.stdout.strip().splitlines()) == 1 + len(names) + 2
    assert b"caf\\udce9.jpg" in (tmp_path / "out.csv").read_bytes()
    assert [os.fsencode(row["file"]).rsplit(b"/", 1)[1] for row in json.loads((tmp_path / "out.json").read_text())] == names


# What is lost, and what is overwritten


def predict_in_process(*arguments, capsys, **options):
    "Exit status and standard error of the command, called as a function."
    status = 0
    try: transfer_predict(*arguments, **options)
    except SystemExit as stop: status = stop.code
    return status, capsys.readouterr().err


OTHERS = {"photo.jpg": b"\xff\xd8\xff", "split.csv": b"file,class,split\n", "notes.json": b'{"a": 1}', "report.csv": b"level,kind,class,file\n"}


@pytest.mark.parametrize("option", ["csv", "json"])
@pytest.mark.parametrize("name", OTHERS)
def test_only_its_own_tables_are_written_over(name, option, saved, inbox, tmp_path, capsys):
    place = tmp_path / name
    place.write_bytes(OTHERS[name])
    status, said = predict_in_process(str(saved), [str(inbox / "a.jpg")], **{option: str(place)}, capsys=capsys)
    assert status == 2 and "isn't a table of predictions; choose another name" in said and len(said.splitlines()) == 1
    assert place.read_bytes() == OTHERS[name]
    (tmp_path / "empty").touch()
    for _ in range(2): assert predict_in_process(str(saved), [str(inbox / "a.jpg")], **{option: str(tmp_path / "empty")}, capsys=capsys) == (0, "")
    (tmp_path / "link").symlink_to("target")
    for _ in range(2): assert predict_in_process(str(saved), [str(inbox / "a.jpg")], **{option: str(tmp_path / "link")}, capsys=capsys) == (0, "")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == (tmp_path / "empty").read_bytes() != b""


def test_two_tables_need_two_files(saved, inbox, tmp_path, capsys):
    (tmp_path / "here").symlink_to(tmp_path)
    status, said = predict_in_process(str(saved), [str(inbox)], csv=str(tmp_path / "out"), json=str(tmp_path / "here" / "out"), capsys=capsys)
    assert status == 2 and "named twice" in said and not (tmp_path / "out").exists()


def test_what_cannot_be_written_does_not_take_the_rest_along(saved, inbox, tmp_path):
    done = text(run(saved, inbox / "a.jpg", "--csv", "/dev/full", "--json", tmp_path / "out.json"))
    assert_one_line_error(done, "/dev/full", "No space left")
    assert json.loads((tmp_path / "out.json").read_text()) and "a.jpg" in done.stdout


WORK = """
import sys, warnings
from transfer_nbs.console import user_errors
with user_errors("command"):
    warnings.warn("class \x1b[2J was skipped")
    print("\u8702 \x1b[2J" * 50000, flush=True)
    print("nobody reads this")
    open("made", "w").close()
"""


STREAMS = {  # exit status, and what stands on standard error beside the warning
    "| true": (141, ""), "| head -c 1": (141, ""), "2>&1 | true": (141, None), "> /dev/full": (2, "command: standard output: No space left on device"), "> /dev/full 2>&1": (2, None),
    "2> /dev/full": (0, None), ">&-": (0, ""), ">&- 2>&- <&-": (0, None), "2>&-": (0, None)}


@pytest.mark.parametrize("encoding", [{}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["utf-8", "latin-1", "C"])
@pytest.mark.parametrize("stream", STREAMS)
def test_work_is_done_whatever_happens_to_the_text(stream, encoding, tmp_path):
    status, words = STREAMS[stream]
    (tmp_path / "work.py").write_text(WORK)
    statuses, done = shell(f"python work.py {stream}", tmp_path, **encoding)
    assert statuses[0] == status and (tmp_path / "made").exists(), done
    said = done.stderr.splitlines()
    assert said == ([] if words is None else [r"command: warning: class \x1b[2J was skipped", *[words] * bool(words)])
    assert "\x1b" not in done.stdout


COMMANDS = {
    "predict": ("transfer_predict BUNDLE FOLDER --csv made.csv --json made.json | true", 141, "made.json"),
    "predict, full": ("transfer_predict BUNDLE FOLDER --csv made.csv > /dev/full", 2, "made.csv"),
    "check": ("transfer_check FOLDER --csv made.csv | true", 141, "made.csv"), "split": ("transfer_split FOLDER made | true", 141, "made/split.csv"),
    "fit": ("transfer_fit FOLDER --recipe bn_eval --epochs 1 --size 32 --device cpu --out made | true", 141, "made/bundle.json")}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_write_what_they_promise_when_nobody_reads(name, saved, figures, tmp_path):
    line, status, made = COMMANDS[name]
    line = line.replace("BUNDLE", shlex.quote(str(saved))).replace("FOLDER", shlex.quote(str(figures[0])))
    statuses, done = shell(line, tmp_path, PYTHONUNBUFFERED="1")  # the first line is noticed to be lost as soon as it is printed
    assert statuses[0] == status and len(done.stderr.splitlines()) == (status == 2) and (tmp_path / made).stat().st_size, done


def test_tables_go_where_standard_output_goes(saved, inbox, tmp_path):
    bundle = shlex.quote(str(saved))
    statuses, _ = shell(f"transfer_predict {bundle} inbox/a.jpg --csv /dev/stdout > both.txt", tmp_path)
    both = (tmp_path / "both.txt").read_text()
    assert statuses == [0] and both.startswith("file,answer,class_1") and both.endswith("\n1 image\n")
    writing = "import sys; from transfer_nbs.files import write_file; write_file(sys.argv[1], 'a,b\\n')"
    shell(f'python -c "{writing}" >(cat > piped.csv; touch over); until [ -e over ]; do sleep 0.01; done', tmp_path)
    assert (tmp_path / "piped.csv").read_text() == "a,b\n"


LISTS = {"byte order mark": (b"\xef\xbb\xbfinbox/a.jpg\r\ninbox/b.jpg\r\n", ["inbox/a.jpg", "inbox/b.jpg"]), "PowerShell": ("\ufeffinbox/a.jpg\r\ninbox/b.jpg\r\n".encode("utf-16-le"), ["inbox/a.jpg", "inbox/b.jpg"]),
         "no UTF-8": (b"inbox/a.jpg\ncaf\xe9.jpg", ["inbox/a.jpg", os.fsdecode(b"caf\xe9.jpg")]), "a very long name": (b"x" * 5000, ["x" * 5000])}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_all_kinds(name, inbox, monkeypatch):
    monkeypatch.chdir(inbox.parent)
    content, names = LISTS[name]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert list_images(["-"]) == names


def test_a_list_that_is_not_there(saved, tmp_path, monkeypatch):
    statuses, done = shell(f"transfer_predict {shlex.quote(str(saved))} - <&-", tmp_path)
    assert statuses == [2] and "no images are named on standard input" in done.stderr and len(done.stderr.splitlines()) == 1
    for stdin in (None, SimpleNamespace(buffer=io.BytesIO())):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(ValueError, match="standard input"): list_images(["-"])


def test_no_name_reaches_the_terminal_as_it_is(saved, inbox, capsys):
    "Neither through the table nor through warnings, errors and rows of errors; the signs that turn the direction of writing neither."
    for name in ("\x1b[2J.jpg", "\x9b2J\u202egpj.jpg", "\x1b]0;owned\a.txt"): shutil.copy(inbox / "letter.txt", inbox / name)
    with pytest.raises(SystemExit): transfer_predict(str(saved), [str(inbox)])
    with pytest.raises(SystemExit): transfer_predict(str(saved), ["\x1b[2J"])
    with pytest.raises(SystemExit): transfer_predict("\x1b[2J", [str(inbox)])
    said = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in said.out + said.err)
    assert r"\x1b[2J.jpg" in said.out and r"\u202egpj" in said.out and r"\x1b]0;owned" in said.err


def test_no_name_becomes_a_formula(saved, inbox, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(inbox)
    names = ["=HYPERLINK(1).jpg", "+1.jpg", "-1.jpg", "@a.jpg", "\tb.jpg", "a\rb.jpg", "a=b.jpg"]
    for name in names: shutil.copy(inbox / "a.jpg", name)
    assert predict_in_process(str(saved), names, csv="out.csv", capsys=capsys)[0] == 0
    table = rows_of("out.csv")
    assert list(table["file"]) == ["'=HYPERLINK(1).jpg", "'+1.jpg", "'-1.jpg", "'@a.jpg", "'\tb.jpg", r"a\rb.jpg", "a=b.jpg"]
    assert table["probability_1"].dtype == float
    numbers = pd.DataFrame({"value": np.float32([-0.1, 0.9])})
    assert csv_text(numbers) == numbers.to_csv(index=False)


@pytest.mark.filterwarnings("ignore")
def test_no_class_becomes_a_formula_in_the_tables_of_other_commands(figures, tmp_path):
    for name, files in zip(("-a", "=b"), [sorted(kind.glob("*.jpg")) for kind in sorted(figures[0].glob("[!.]*"))]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for file in files[:6]: shutil.copy(file, tmp_path / "images" / name / f"@{file.name}")
    (tmp_path / "images" / "=b" / "@broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(SystemExit): transfer_check(str(tmp_path / "images"), csv=str(tmp_path / "check.csv"))
    assert "'=b/@broken.jpg" in set(rows_of(tmp_path / "check.csv")["file"]) and "'=b" in set(rows_of(tmp_path / "check.csv")["class"])
    (tmp_path / "images" / "=b" / "@broken.jpg").unlink()
    for _ in range(2): table = split_folder(tmp_path / "images", tmp_path / "parts")
    written = rows_of(tmp_path / "parts" / "split.csv")
    assert set(written["class"]) == {"'-a", "'=b"} and list(written["file"].map(csv_value)) == list(table["file"])
    assert set(valid_classes(tmp_path / "parts")) == {"-a", "=b"}, "a comparison reads its table back"


# Real photographs


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "hymenoptera").is_dir(), reason=f"the real photographs are not at {REAL}")
def test_real_photographs_with_imagenet_weights(tmp_path):
    "A mobilenet_v2 that tells ants from bees, trained, saved, loaded and used; and as ONNX."
    folder, weights = REAL / "hymenoptera", REAL / "weights" / "mobilenet_v2_imagenet.pth"
    with pytest.warns(UserWarning, match="imageNotFound.gif"): table = read_folder(folder)
    settings = CompareSettings(arch="mobilenet_v2", weights=str(weights), size=224, epochs=2, device="cpu")
    result = train_recipe(RECIPES["bn_eval"], settings, table, folder)
    bundle = make_bundle(result.model, result.spec, recipe=RECIPES["bn_eval"], settings=dict(arch=settings.arch, weights=str(weights)), table=table, folder=folder)
    path = save_bundle(bundle, tmp_path / "insects")
    assert bundle.results["valid"]["accuracy"] >= 0.9
    done = text(run(path, folder / "val", "--csv", tmp_path / "out.csv"))
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "out.csv")
    assert (rows["answer"] == [Path(file).parent.name for file in rows["file"]]).mean() == pytest.approx(bundle.results["valid"]["accuracy"], abs=0.01)
    try: import onnxruntime, onnxscript  # noqa: F401
    except ImportError: return
    assert export_onnx(path, list(rows["file"][:40])) <= 1e-4


def test_predicting_imports_no_comparison():
    "Nor the course's checks, practice data and commands: a program that predicts needs none of them."
    code = "import sys, transfer_nbs.predict; print(*(name for name in sys.modules if name.startswith('transfer_nbs.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    imported = {name.removeprefix("transfer_nbs.") for name in done.stdout.split()}
    assert {"predict", "bundle", "inference"} <= imported, done.stderr
    assert not imported & {"all", "check", "chart", "clothes", "compare", "recipes", "review", "your_images"}
