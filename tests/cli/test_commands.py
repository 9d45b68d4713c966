"""What all commands have in common: help, exit codes, progress, output that is piped."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys

import pytest

from feataug import __version__
from feataug.cli.main import COMMANDS, main
from feataug.cli.parser import parse
from feataug.training import progress
from tests.support import forks


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_examples_that_parse(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    lines = text[text.index("\nexamples:\n") :].splitlines()[2:]
    assert [line.strip() for line in lines] == list(COMMANDS[name].EXAMPLES)
    assert len(lines) >= 2
    for line in lines:
        program, *argv = shlex.split(line)
        args, _ = parse(argv)
        assert (program, args.command) == ("feataug", name)
    assert "--config FILE" in text
    assert "--dry-run" in text
    assert "(default: None)" not in text
    assert "(default: False)" not in text


def test_help_and_version_answer_without_torch():
    code = "import sys\nfrom feataug.cli.main import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    print('torch' in sys.modules)"
    for argv in (["finetune", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.splitlines()[-1] == "False"
    assert done.stdout.splitlines()[0] == f"feataug {__version__}"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["finetune", "--steps", "0"], "argument --steps: '0' is not an integer of at least 1"),
        (["finetune", "--ratio", "1"], "argument --ratio: '1' is not a number in [0, 1)"),
        (["finetune", "--lr", "nan"], "argument --lr: 'nan' is not a number of at least 0"),
        (["evaluate", "--model", "a", "--scales", "1", "zero"], "argument --scales: 'zero' is not a number above 0"),
        (["nothing"], "invalid choice: 'nothing'"),
    ],
)
def test_options_that_do_not_parse_are_2(argv, text, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert text in capsys.readouterr().err


def test_piped_output_has_plain_lines(tmp_path):
    tiny = ["--dataset", "scenes", "--size", "32", "48", "--batch-size", "16", "--device", "cpu", "--workers", "0"]
    script = "import sys\nfrom feataug.cli.main import main\nsys.exit(main())"
    done = forks.run(script, "finetune", *tiny, "--encoder", "test_resnet", "--steps", "2", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(finetune: [12]/2 step, \d\d:\d\d passed.*, loss [\d.]+\n)+", done.stderr)
    for text in (done.stdout, done.stderr):
        assert not set(text) & set(map(chr, range(32))) - {"\n"}


def test_lines_come_now_and_then(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress_bar(200, 50, "encode ", "img", True) as bar:
        for step in range(100):
            now[0] += 1
            bar.update()
            bar.set_postfix_str(f"loss {step}", refresh=False)
    assert capsys.readouterr().err.splitlines() == [
        "encode: 80/200 img, 00:30 passed, 02:00 left, loss 28",
        "encode: 110/200 img, 01:00 passed, 01:30 left, loss 58",
        "encode: 140/200 img, 01:30 passed, 01:00 left, loss 88",
        "encode: 150/200 img, 01:40 passed, 00:50 left, loss 99",
    ]
    with progress.progress_bar(5, 0, "encode", "img", False) as bar:
        bar.update(5)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress_bar(5, 0, "encode", "img", True) as bar:
        bar.update(5)
    assert "\r" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of Unix")
@pytest.mark.parametrize("options", ["inspect timm/test_resnet --size 64x96", "--help", "demo --dry-run"])
def test_a_pipe_that_is_closed_leaves_no_traceback(options):
    # The reader is gone before anything is written.
    code = f'{{ sleep 0.2; {shlex.quote(sys.executable)} -m feataug.cli.main {options}; echo "code $?" >&2; }} | true'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=300)
    # argparse sees to its own help where output is not buffered.
    assert done.stderr == "code 141\n" or (options == "--help" and done.stderr == "code 0\n")


def replace_demo(monkeypatch, run):
    monkeypatch.setattr(COMMANDS["demo"], "run", run)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_the_exit_codes(tmp_path, monkeypatch, capsys):
    # A command that was stopped notes so in its --output, by default runs/demo, if that is there.
    monkeypatch.chdir(tmp_path)
    replace_demo(monkeypatch, lambda args: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert main(["demo"]) == 130
    replace_demo(monkeypatch, lambda args: sys.exit(128 + signal.SIGTERM))
    assert main(["demo"]) == 143
    assert capsys.readouterr().err == 2 * "stopped; the same command resumes from the last checkpoint\n"
    replace_demo(monkeypatch, lambda args: (_ for _ in ()).throw(BrokenPipeError("another pipe")))
    with pytest.raises(BrokenPipeError, match="another pipe"):
        main(["demo"])
