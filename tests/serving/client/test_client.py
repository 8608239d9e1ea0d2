"""The command line client against the embedded server: what goes in, what comes out."""

import csv
import io
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from serving.client import Client, ClientError, cli, images, output
from tests.helpers.client_servers import Both, http_server, reply
from tests.helpers.serving_models import png
from tests.serving.server.test_server_process import ROOT, free_port

RED, GREEN, BLUE = (255, 0, 0), (0, 200, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def served(exports, tmp_path_factory):
    server = Both(exports, tmp_path_factory.mktemp("served"))
    yield server
    server.stop()


@pytest.fixture
def photos(tmp_path):
    """A folder with two good images, two bad ones and one that is none."""
    folder = tmp_path / "photos"
    (folder / "a" / "b").mkdir(parents=True)
    Image.new("RGB", (32, 32), RED).save(folder / "a" / "b" / 'red, "so to say".PNG', "PNG")
    Image.new("RGB", (32, 32), GREEN).save(folder / "leaf.jpeg", quality=100)
    (folder / "a" / "cut.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (folder / "a" / "text.jpg").write_text("hello")
    (folder / "notes.txt").write_text("hello")
    return folder


@pytest.fixture
def run(served, capsys):
    """Runs the command line in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        status = cli.main([f"--url={served.url}", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def spawn(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "serving.client", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", subprocess.PIPE),
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


def test_bad_images_of_a_folder_do_not_stop_the_good_ones(run, photos):
    status, output, errors = run(photos, "--top=1")
    assert status == 1
    assert [line.split()[-2:] for line in output.splitlines()] == [
        ["green", "100.00%"],
        ["red", "100.00%"],
    ]
    left_out, cut, text, count = errors.splitlines()
    assert left_out.startswith(f"{photos}: 1 file is left out")
    assert cut.startswith(f"{photos}/a/cut.jpg: ") and "Invalid JPEG data" in cut
    words = "the bytes are no JPEG or PNG; convert the image to PNG, which loses nothing."
    assert text == f"{photos}/a/text.jpg: {words}"
    assert count == "2 of 4 images have no labels."


def test_only_the_first_reasons_of_many_are_printed(run, tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02}.jpg").write_text("hello")
    status, output, errors = run(tmp_path)
    assert (status, output) == (1, "")
    *reasons, count = errors.splitlines()
    assert [line.split(":")[0] for line in reasons] == [f"{tmp_path}/{n:02}.jpg" for n in range(10)]
    assert count == "12 of 12 images have no labels. The first 10 reasons are above."


def test_csv_has_a_row_for_each_label_and_each_failure(run, photos, served, tmp_path):
    out = tmp_path / "results.csv"
    status, output, errors = run(photos, "--out", out, "--jobs=3")
    assert status == 1
    assert output == f"{out}: 4 images, 2 without labels.\n"
    assert len(errors.splitlines()) == 3
    with open(out, newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "rank", "label", "probability", "error"]
    names = [f"{photos}/leaf.jpeg", f"{photos}/a/cut.jpg", f"{photos}/a/text.jpg"]
    names.append(f'{photos}/a/b/red, "so to say".PNG')
    assert list(dict.fromkeys(row[0] for row in rows)) == names
    for name in names:
        of_name = [row for row in rows if row[0] == name]
        if ".jpg" in name:
            [(_, *nothing, error)] = of_name
            assert nothing == ["", "", ""] and error.startswith(f"{name}: ")
            continue
        [labels] = Client(served.url).top_k([Path(name).read_bytes()])
        wanted = [
            (str(rank), label.name, label.probability) for rank, label in enumerate(labels, 1)
        ]
        assert [(row[1], row[2], float(row[3])) for row in of_name] == wanted
        assert {row[4] for row in of_name} == {""}


def test_json_lines_have_a_line_for_each_image(run, photos, tmp_path):
    out = tmp_path / "results.jsonl"
    assert run(photos, "--out", out, "--top=1")[0] == 1
    entries = [json.loads(line) for line in out.read_text().splitlines()]
    assert entries[0] == {
        "file": f"{photos}/leaf.jpeg",
        "labels": [{"name": "green", "probability": 1.0}],
    }
    assert [set(entry) for entry in entries] == [
        {"file", "labels"}, {"file", "error"}, {"file", "error"}, {"file", "labels"},
    ]  # fmt: skip


def test_names_of_any_bytes_are_kept_in_files_and_printed(run, tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    with open(folder + b"/red.png", "wb") as file:
        file.write(png(RED))
    status, output, _ = run(os.fsdecode(folder), "--top=1")
    assert status == 0 and output.split()[1] == "red"
    assert run(os.fsdecode(folder), "--out", tmp_path / "o.csv")[0] == 0
    assert folder + b"/red.png,1,red,1.0," in (tmp_path / "o.csv").read_bytes()
    [entry] = json.loads(run(os.fsdecode(folder), "--json")[1].encode())
    assert os.fsencode(entry["file"]) == folder + b"/red.png"


def test_a_name_does_not_steer_the_terminal(run, tmp_path):
    (tmp_path / "a\x1b[31m\nb.png").write_bytes(png(RED))
    output = run(tmp_path, "--top=1")[1]
    assert "\x1b" not in output and output.count("\n") == 1


def test_a_pipe_in_a_folder_is_named_and_not_waited_for(run, tmp_path):
    (tmp_path / "a.png").write_bytes(png(RED))
    os.mkfifo(tmp_path / "b.jpg")
    status, printed, told = run(tmp_path)
    assert status == 1
    assert "a.png" in printed
    assert f"{tmp_path / 'b.jpg'}: is a pipe." in told


def test_names_come_from_standard_input(served, photos):
    listed = f"{photos}/leaf.jpeg\n\n{photos}/a/b\r\n"
    process = spawn("-", "--url", served.url, "--json", stdin=subprocess.PIPE)
    output, errors = process.communicate(listed, timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert [entry["labels"][0]["name"] for entry in json.loads(output)] == ["green", "red"]


def test_empty_folders_and_missing_files_are_said(run, tmp_path):
    status, _, errors = run(tmp_path, tmp_path / "none.png", "gs://bucket/a.png")
    assert status == 1
    assert errors.splitlines() == [
        f"{tmp_path}: holds no file that ends in .jpg, .jpeg, .png.",
        f"{tmp_path}/none.png: No such file or directory.",
        "gs://bucket/a.png: only files and addresses with http:// or https:// can be read.",
    ]


def test_the_client_downloads_addresses_itself(run):
    seen = []

    def answer(handler):
        seen.append((handler.path, handler.headers["User-Agent"]))
        if handler.path == "/moved":
            return reply(handler, 302, Location="/red.png")
        if handler.path == "/busy" and len(seen) == 1:
            return reply(handler, 503)
        return reply(handler, 200, png(RED))

    with http_server(answer) as url:
        status, output, errors = run(f"{url}/busy", f"{url}/moved", "--jobs=1", "--top=1")
    assert (status, errors) == (0, "")
    assert [line.split()[0] for line in output.splitlines()] == [f"{url}/busy", f"{url}/moved"]
    assert [path for path, _ in seen] == ["/busy", "/busy", "/moved", "/red.png"]
    assert all(agent.startswith("Python-urllib") for _, agent in seen)


@pytest.fixture(scope="module")
def web():
    """Addresses that give no image."""

    def answer(handler):
        if handler.path == "/text":
            reply(handler, 200, b"<html>A page</html>")
        elif handler.path == "/large":
            reply(handler, 200, png(RED) + bytes(images.MAX_IMAGE_BYTES))
        elif handler.path == "/file":
            reply(handler, 302, Location="file:///etc/hostname")
        elif handler.path == "/ftp":
            reply(handler, 302, Location="ftp://127.0.0.1/a.png")
        elif handler.path == "/short":
            reply(handler, 200, png(RED), Content_Length=len(png(RED)) + 5)
        elif handler.path == "/drip":
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(png(RED))
            while not done.wait(0.02):
                handler.wfile.write(b"x")
        else:
            reply(handler, 404)

    done = threading.Event()
    with http_server(answer) as url:
        yield url
        done.set()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/text", "the bytes are no JPEG or PNG"),
        ("/large", "has more than 52428800 bytes, the most that a server takes"),
        ("/file", "its server answered 302 .*file:///etc/hostname"),
        ("/ftp", r"cannot be downloaded \(unknown url type: ftp\)"),
        ("/short", r"the download broke off after \d+ of \d+ bytes"),
        ("/drip", "the download took too long; give it more time with --timeout"),
        ("/none", "its server answered 404 Not Found"),
    ],
)
def test_addresses_without_an_image_say_why(web, path, reason):
    timeout = 0.5 if path == "/drip" else 60
    with pytest.raises(images.ImageError, match=reason) as caught:
        images.read(images.Source(web + path), timeout=timeout)
    assert str(caught.value).startswith(f"{web}{path}: ")
    assert "\n" not in str(caught.value)


def test_a_download_from_nowhere_is_said():
    with pytest.raises(images.ImageError, match=r"cannot be downloaded .*refused"):
        images.read(images.Source(f"http://127.0.0.1:{free_port()}/a.png"))


def test_a_version_or_a_label_answers_or_nothing_does(run, photos):
    leaf = photos / "leaf.jpeg"
    for choice in ("--version=1", "--version=2", "--label=stable", "--label=canary"):
        assert run(leaf, choice, "--top=1")[:2] == (0, f"{leaf}  green  100.00%\n")
    status, output, errors = run(leaf, leaf, "--version=7")
    assert (status, output) == (1, "")
    [line] = errors.splitlines()
    assert "serves no such model or version as resnet" in line and "Specific(resnet, 7)" in line
    assert line.endswith("Without a version, the newest answers.")
    assert "Unrecognized servable version label: x" in run(leaf, "--label=x")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "IMAGE"),
        (["a.png", "--top=0"], "--top 0: must be at least 1"),
        (["a.png", "--jobs=0"], "--jobs 0: must be at least 1"),
        (["a.png", "--retries=-1"], "--retries -1: must be at least 0"),
        (["a.png", "--timeout=0"], "--timeout 0: must be above 0"),
        (["a.png", "--version=1", "--label=stable"], "not allowed with argument"),
        (["a.png", "--json", "--out=a.csv"], "not allowed with argument"),
        (["a.png", "--out=a.txt"], "--out a.txt: must end in .csv or .jsonl"),
        (["a.png", "--out=none/a.csv"], "must be a file in a folder that can be written"),
        (["a.png", "--url=localhost:8501"], "must be an address such as http://"),
        (["a.png", "--grpc=localhost"], "must be HOST:PORT such as 127.0.0.1:8500"),
    ],
)
def test_wrong_arguments_are_exit_status_two(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_without_a_server_the_old_results_stay(photos, tmp_path, capsys):
    out = tmp_path / "results.csv"
    out.write_text("old")
    url = f"http://127.0.0.1:{free_port()}"
    assert cli.main([str(photos), f"--out={out}", f"--url={url}", "--retries=0"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"{out} is not written.")
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "results.csv"]


def test_ctrl_c_leaves_no_half_written_file(served, photos, tmp_path):
    """The first image is answered, the second is waited for when the signal comes."""
    asked, forever = threading.Event(), threading.Event()
    first = json.dumps({"predictions": [{"classes": ["x"], "scores": [1.0]}]}).encode()
    seen = []

    def answer(handler):
        seen.append(handler.path)
        if len(seen) == 1:
            return reply(handler, 200, first)
        asked.set()
        forever.wait()

    with http_server(answer) as url:
        process = spawn(photos, "--url", url, "--out", tmp_path / "results.csv", "--jobs=1")
        assert asked.wait(60)
        assert any(path.name.endswith(".part") for path in tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        forever.set()
    assert (process.returncode, output) == (130, "")
    assert errors.splitlines()[-1] == f"Interrupted. {tmp_path}/results.csv is not written."
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_images_are_asked_for_at_the_same_time_and_answered_in_order(tmp_path, capsys):
    together = threading.Barrier(3, timeout=30)

    def answer(handler):
        together.wait()
        image = json.loads(handler.body)["instances"][0]["b64"]
        reply(
            handler,
            200,
            json.dumps({"predictions": [{"classes": [image[-9:]], "scores": [1]}]}).encode(),
        )

    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(png((number, number, number)))
    with http_server(answer) as url:
        assert cli.main([str(tmp_path), "--jobs=3", "--json", f"--url={url}"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["file"] for entry in entries] == [f"{tmp_path}/{n}.png" for n in range(9)]
    assert entries == sorted(entries, key=lambda entry: entry["file"])


def on_a_terminal(*arguments):
    """What the client writes to a terminal on standard error."""
    ours, theirs = pty.openpty()
    process = spawn(*arguments, stderr=theirs)
    os.close(theirs)
    text = io.BytesIO()
    try:
        while chunk := os.read(ours, 4096):
            text.write(chunk)
    except OSError:
        pass  # the other end is closed
    os.close(ours)
    return process.wait(60), text.getvalue().decode()


def test_a_terminal_shows_a_count_and_the_reasons_above_it(photos):
    labels = json.dumps({"predictions": [{"classes": ["x"], "scores": [1.0]}]}).encode()

    def answer(handler):
        time.sleep(0.2)
        reply(handler, 200, labels)

    with http_server(answer) as url:
        status, text = on_a_terminal(photos, "--url", url, "--jobs=1")
    assert status == 1
    assert "\r\x1b[2K1 of 4 images\r\x1b[2K" in text
    assert (
        "text.jpg: the bytes are no JPEG or PNG; convert the image to PNG, which loses nothing."
        in text
    )


def test_without_a_terminal_there_is_a_line_now_and_then(capsys):
    lines = output.Counter(3, seconds=0)
    for _ in range(3):
        lines.advance()
    assert capsys.readouterr().err.splitlines() == ["1 of 3 images", "2 of 3 images"]


def test_a_copy_of_the_folder_needs_the_standard_library_alone(served, photos, tmp_path):
    """-S leaves out site-packages, -P the checkout: neither rich nor this project is there."""
    shutil.copytree(ROOT / "serving" / "client", tmp_path / "client")
    command = [
        sys.executable,
        "-S",
        "-m",
        "client",
        str(photos / "leaf.jpeg"),
        f"--url={served.url}",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    options = {
        "cwd": tmp_path,
        "env": environment,
        "text": True,
        "capture_output": True,
        "timeout": 60,
    }
    done = subprocess.run(command, **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "green" in done.stdout
    done = subprocess.run([*command[:-1], "--grpc=127.0.0.1:8500"], **options)
    assert done.returncode == 2
    assert "--grpc needs this project's environment" in done.stderr


def test_attempts_end_with_an_answer_or_after_the_retries(tmp_path):
    statuses = []

    def answer(handler):
        status = statuses.pop(0)
        if status == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            handler.connection.close()
            handler.close_connection = True
            return
        text = {"model_version_status": []} if status == 200 else {"error": f"said {status}"}
        reply(handler, status, json.dumps(text).encode())

    with http_server(answer) as url:
        client = Client(url, retries=3)
        statuses[:] = [503, 429, "reset", 200, "left"]
        assert client.status() == []
        assert statuses == ["left"]
        statuses[:] = [503] * 5
        with pytest.raises(ClientError, match="said 503") as caught:
            client.status()
        assert (caught.value.status, len(statuses)) == (503, 1)
        for status in (400, 404, 500, 504):
            statuses[:] = [status, 200]
            with pytest.raises(ClientError, match=f"said {status}") as caught:
                client.predict([1], version=4)
            assert (caught.value.status, statuses) == (status, [200])


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"predictions": 1, "model_version_status": 1}',
        b'{"predictions": [], "model_version_status": [1]}',
        b'{"predictions": [{"b64": 3}], "model_version_status": [{}]}',
        b'{"predictions": [1, 2], "model_version_status": [{"b64": 3}]}',
    ],
)
def test_answers_of_strangers_are_a_client_error(body):
    with http_server(lambda handler: reply(handler, 200, body)) as url:
        for ask in (lambda: Client(url).top_k([b""]), Client(url).status):
            with pytest.raises(ClientError, match=url):
                ask()


@pytest.mark.parametrize(
    "row",
    [
        "1",
        '{"classes": ["a"]}',
        '{"classes": ["a"], "scores": [null]}',
        '{"classes": [], "scores": [1]}',
    ],
)
def test_a_top_k_of_another_kind_is_a_client_error(row):
    body = f'{{"predictions": [{row}]}}'.encode()
    with (
        http_server(lambda handler: reply(handler, 200, body)) as url,
        pytest.raises(ClientError, match="top_k of resnet does not answer with classes"),
    ):
        Client(url).top_k([b""])
