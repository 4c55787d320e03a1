"""Files and folders are there whole or not at all: beside other writers, after a kill, on a full disk."""

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import time
from contextlib import suppress
from unittest.mock import patch

import pytest

from transfer_nbs.files import (check_free, check_outside, claim, ensure_folder, file_stamps, is_unfinished, move_file,
                                place_file, remove_unfinished, replace_folder, write_file, write_folder, write_output)

FORK = multiprocessing.get_context("fork")
SIZE = 200_000  # more than one write of the system


def write_often(path, letter, barrier, until):
    barrier.wait()
    while time.time() < until: write_file(path, letter * SIZE)


@pytest.mark.parametrize("there", [False, True])
def test_two_writers_and_a_reader_that_never_sees_a_torn_file(there, tmp_path):
    path, barrier, until = tmp_path / "shared.txt", FORK.Barrier(3), time.time() + 1
    if there: path.write_text("a" * SIZE)
    writers = [FORK.Process(target=write_often, args=(path, letter, barrier, until)) for letter in "ab"]
    for writer in writers: writer.start()
    barrier.wait()
    seen = set()
    while time.time() < until:
        with suppress(FileNotFoundError): seen.add(path.read_text())
    for writer in writers: writer.join()
    assert seen and seen <= {"a" * SIZE, "b" * SIZE}
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["shared.txt"]


def make_folders(place, number, barrier, answers):
    "Fill the same twenty folders as another process, each with two files of one number."
    def write(folder):
        (folder / "first").write_text(number)
        time.sleep(0.002)
        (folder / "second").write_text(number)
    for name in range(20):
        barrier.wait()
        try: answers.put(write_folder(place / str(name), write).name)
        except Exception as error: answers.put(repr(error))


def test_two_processes_make_the_same_folders(tmp_path):
    "Both get a folder, and it is one of the two, not half of each."
    barrier, answers = FORK.Barrier(2), FORK.Queue()
    processes = [FORK.Process(target=make_folders, args=(tmp_path, number, barrier, answers)) for number in "12"]
    for process in processes: process.start()
    assert sorted(answers.get(timeout=30) for _ in range(40)) == sorted([str(name) for name in range(20)] * 2)
    for process in processes: process.join()
    for folder in tmp_path.iterdir(): assert (folder / "first").read_text() == (folder / "second").read_text() in ("1", "2")
    assert len(list(tmp_path.iterdir())) == 20


def killed_in(place, name, function):
    "Run a function in a process that is killed when it calls a function of the module os for the first time."
    def run():
        def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
        with patch(f"os.{name}", die): function(place)
    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_killed_write_leaves_the_old_file(name, tmp_path):
    path = tmp_path / "result.txt"
    write_file(path, "old")
    killed_in(path, name, lambda path: write_file(path, "new"))
    assert path.read_text() == "old"
    left = [file for file in tmp_path.iterdir() if file != path]
    assert len(left) == 1 and is_unfinished(left[0])
    write_output(path, "newer")
    assert [file.name for file in tmp_path.iterdir()] == ["result.txt"] and path.read_text() == "newer"


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_killed_folder_is_not_there(name, tmp_path):
    path = tmp_path / "results"
    def fill(folder): (folder / "note.txt").write_text("whole")
    killed_in(path, name, lambda path: write_folder(path, fill))
    assert not path.exists() and any(map(is_unfinished, tmp_path.iterdir()))
    with claim(path): write_folder(path, fill)
    assert [file.name for file in tmp_path.iterdir()] == ["results"] and (path / "note.txt").read_text() == "whole"


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path):
    path = tmp_path / "bundle"
    write_folder(path, lambda folder: (folder / "version").write_text("1"))
    def half(folder):
        (folder / "version").write_text("2")
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left"): replace_folder(path, half)
    assert (path / "version").read_text() == "1"
    replace_folder(path, lambda folder: (folder / "version").write_text("2"))
    assert (path / "version").read_text() == "2" and [file.name for file in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("number", ["ENOSPC", "EIO"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(number, tmp_path):
    path = tmp_path / "result.txt"
    write_file(path, "old")
    with patch("os.fsync", side_effect=OSError(getattr(errno, number), "refused")), pytest.raises(OSError, match="refused"): write_file(path, "new")
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["result.txt"]


def full(*_, **__): raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("number", ["ENOSPC", "EIO"])
def test_a_write_that_fails_names_the_file(number, tmp_path):
    "A plain file, one through a link (as it was given), a device, and one beside which nothing can be made."
    (tmp_path / "link.txt").symlink_to("result.txt")
    for name in ("result.txt", "link.txt"):
        with patch("os.fsync", side_effect=OSError(getattr(errno, number), "refused")), pytest.raises(OSError) as error: write_file(tmp_path / name, "new")
        assert (error.value.errno, error.value.strerror, error.value.filename) == (getattr(errno, number), "refused", str(tmp_path / name))
    with pytest.raises(OSError) as error: write_file("/dev/full", "new")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, "/dev/full")
    with pytest.raises(FileNotFoundError) as error: write_file(tmp_path / "none/result.txt", "new")
    assert error.value.filename == str(tmp_path / "none/result.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["link.txt"]


def limited(path, answers):
    "Write more than a process may."
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    try: write_file(path, "a" * SIZE)
    except OSError as error: answers.put((error.errno, error.filename))


def test_a_file_that_is_too_large_is_named(tmp_path):
    answers = FORK.Queue()
    process = FORK.Process(target=limited, args=(tmp_path / "result.txt", answers))
    process.start()
    assert answers.get(timeout=30) == (errno.EFBIG, str(tmp_path / "result.txt"))
    process.join()
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_still_one(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError): write_file(f"/dev/fd/{writer}", "new")
    os.close(writer)


@pytest.mark.parametrize("make", [write_folder, replace_folder])
def test_a_folder_that_fails_is_named_and_what_it_is_made_from_too(make, tmp_path):
    path = tmp_path / "results"
    if make is replace_folder: path.mkdir()
    def unsynced(folder): (folder / "note.txt").write_text("whole")
    def gone(folder): (folder / "none/note.txt").write_text("whole")
    def unreadable(folder): (tmp_path / "image.png").read_bytes()
    def silent(folder): raise OSError(errno.EIO, "Input/output error")  # perhaps of what is read
    def odd(folder): raise OSError("4096 requested and 0 written")
    for fill, sync, name in ((full, os.fsync, str(path)), (unsynced, full, str(path)), (gone, os.fsync, str(path)),
                             (unreadable, os.fsync, str(tmp_path / "image.png")), (silent, os.fsync, None), (odd, os.fsync, None)):
        with patch("os.fsync", sync), pytest.raises(OSError) as error: make(path, fill)
        assert error.value.filename == name, fill
        assert not any(map(is_unfinished, tmp_path.iterdir()))


def test_a_copy_that_fails_names_the_copy(tmp_path):
    source, dest = tmp_path / "source.txt", tmp_path / "dest.txt"
    source.write_text("whole")
    def half(source, part, **_): raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(part))  # as shutil does
    for name in ("shutil.copy2", "os.fsync"):
        with patch(name, half if name == "shutil.copy2" else full), pytest.raises(OSError) as error: place_file(source, dest, "copy")
        assert error.value.filename == str(dest) and [file.name for file in tmp_path.iterdir()] == ["source.txt"]
    source.unlink()
    with pytest.raises(FileNotFoundError) as error: place_file(source, dest, "copy")
    assert os.fspath(error.value.filename) == str(source)


def test_what_another_writes_just_now_is_left_to_it(tmp_path):
    "Only the names of one place are removed, and only those of unfinished files."
    for name in (".result.txt-0123abcd.part", ".other.txt-0123abcd.part", "result.txt", "a-0123abcd.part"): (tmp_path / name).touch()
    remove_unfinished(tmp_path / "result.txt")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".other.txt-0123abcd.part", "a-0123abcd.part", "result.txt"]


def hold(place, barrier):
    with claim(place):
        barrier.wait()
        barrier.wait()


def test_a_claim_is_for_one_program_at_a_time(tmp_path):
    barrier = FORK.Barrier(2)
    holder = FORK.Process(target=hold, args=(tmp_path / "out", barrier))
    holder.start()
    barrier.wait()
    with pytest.raises(ValueError, match="another program is writing there: come back later"):
        with claim(tmp_path / "out", remedy="come back later"): pass
    barrier.wait()
    holder.join()
    with claim(tmp_path / "out"): assert [file.name for file in tmp_path.iterdir()] == [".out.lock"]
    assert not list(tmp_path.iterdir())


def test_a_killed_program_holds_no_claim(tmp_path):
    barrier = FORK.Barrier(2)
    holder = FORK.Process(target=hold, args=(tmp_path / "out", barrier))
    holder.start()
    barrier.wait()
    holder.kill()
    holder.join()
    with claim(tmp_path / "out"): pass


@pytest.mark.parametrize("disks", [1, 2])
def test_a_file_is_moved_whole(disks, tmp_path):
    source, dest = tmp_path / "source.txt", tmp_path / "new" / "dest.txt"
    source.write_text("whole")
    os.utime(source, (1, 1))
    def other_disk(*_): raise OSError(errno.EXDEV, "Invalid cross-device link")
    with patch("os.rename", other_disk if disks == 2 else os.rename): move_file(source, dest)
    assert dest.read_text() == "whole" and dest.stat().st_mtime == 1 and not source.exists()
    assert [file.name for file in dest.parent.iterdir()] == ["dest.txt"]
    with pytest.raises(FileExistsError, match="is there already"): check_free(dest)


def test_stamps_change_with_a_file(tmp_path):
    "And not with the time, nor with another file."
    file = tmp_path / "image.png"
    file.write_bytes(b"abc")
    before = file_stamps([file])
    (tmp_path / "other.png").touch()
    assert file_stamps([file]) == before
    file.write_bytes(b"abd")
    os.utime(file, ns=(0, 0))
    changed = file_stamps([file])
    assert changed != before
    shutil.copy2(file, tmp_path / "copy.png")
    assert file_stamps([tmp_path / "copy.png"]) != changed


def test_outside_is_seen_through_links(tmp_path):
    ensure_folder(tmp_path / "images")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    check_outside(tmp_path / "images.csv", tmp_path / "images")
    for inside in ("images", "images/report.csv", "link/report.csv"):
        with pytest.raises(ValueError, match="which must stay as it is"): check_outside(tmp_path / inside, tmp_path / "images")
