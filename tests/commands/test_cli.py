"""Help and mistyped words are answered by name, before torch is imported."""

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from helpers import MODULES, shell

from ssl4seg.commands.cli import _for_hydra
from ssl4seg.commands.conf import conf_dir, is_former, run_name
from ssl4seg.commands.help import help_text
from ssl4seg.commands.words import check
from ssl4seg.errors import UserError
from ssl4seg.keys import KEYS, keys_for

CONF = conf_dir()
GROUPS = sorted({file.parent.name for file in CONF.glob("*/*.yaml")})
"""Without hydra/, whose groups are not ours, and splits/, which holds lists."""


class Answer(NamedTuple):
    code: int
    output: str
    imported: set[str]


SERVER = """
import gc, importlib, json, os, sys
from ssl4seg.commands.conf import composed

mains = {name: importlib.import_module(module).main for name, module in json.loads(sys.argv[1]).items()}
composed("train", ["seed=0"])  # Hydra looks for its plugins, and its parsers learn their grammars
gc.freeze()
for line in sys.stdin:
    name, arguments, cwd, log = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(cwd)
    sys.argv = [f"ssl4seg-{name}", *arguments]
    try:
        mains[name]()
    finally:
        with open(f"{log}.imported", "w") as file:
            file.write(" ".join(sys.modules))
    break
"""


@cache
def server() -> subprocess.Popen[str]:
    """A process that has imported the modules of the commands, and forks one for each command that it is told."""
    words = [sys.executable, "-c", SERVER, json.dumps(MODULES)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def answer(command: str, *arguments: str, cwd: Path) -> Answer:
    """What a command answers, and every module that is imported when it ends."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        told, asked = server().stdout, server().stdin
        assert told
        assert asked
        print(json.dumps([command, arguments, str(cwd), str(log)]), file=asked, flush=True)
        code = int(told.readline())
        return Answer(code, log.read_text(), set(log.with_name("log.imported").read_text().split()))


def assert_at_once(given: Answer) -> None:
    assert not given.imported & {"torch", "torchvision", "lightning_fabric", "tensorboard"}
    assert "Traceback" not in given.output


def test_a_pattern_stands_for_every_choice_that_it_matches() -> None:
    check("train", ["method=glob(s*,exclude=supervised)"], [], sweep=True)
    with pytest.raises(UserError, match=r"method=glob\(zz\*\): there is no such method"):
        check("train", ["method=glob(zz*)"], [], sweep=True)


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train_help(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    return answer("train", "--help", cwd=tmp_path_factory.mktemp("help"))


@pytest.mark.parametrize("command", MODULES)
def test_help_tells_how_to_call_and_imports_no_torch(command: str, tmp_path: Path) -> None:
    given = answer(command, "--help", cwd=tmp_path)
    assert given.code == 0
    assert f"usage: ssl4seg-{command}" in given.output
    assert_at_once(given)


@pytest.mark.parametrize("group", GROUPS)
def test_help_lists_every_group_with_its_choices(train_help: Answer, tmp_path: Path, group: str) -> None:
    help_ = answer("predict", "--help", cwd=tmp_path) if group == "postprocess" else train_help
    listed = re.search(rf"^  {group}\n((?:    .*\n)+)", help_.output, re.MULTILINE)
    assert listed
    lines = {line.split()[0]: line.split(maxsplit=1)[1:] for line in listed[1].splitlines()}
    assert set(lines) == {path.stem for path in (CONF / group).glob("*.yaml") if not is_former(path)}
    assert all(lines.values())


def test_help_lists_every_key_of_train_with_what_it_does(train_help: Answer) -> None:
    keys = set(yaml.safe_load((CONF / "run.yaml").read_text())) - {"defaults", "hydra"}
    listed = {line.partition(":")[0].strip(): line for line in train_help.output.splitlines() if ": " in line}
    parents = {"metrics", "transfer"}  # whose own keys are listed
    assert keys <= set(listed) | parents
    assert all("#" in listed[key] for key in keys - parents)


def test_help_lists_the_keys_of_the_recipe_as_they_are_typed(train_help: Answer) -> None:
    for key in yaml.safe_load((CONF / "recipe.yaml").read_text())["recipe"]:
        assert re.search(rf"^  recipe\.{key}: \S+  # \w+", train_help.output, re.MULTILINE), key


def test_help_on_a_choice_lists_its_keys(tmp_path: Path) -> None:
    given = answer("train", "method=uamt", "--help", cwd=tmp_path)
    assert given.output.index("Keys of method=uamt") < given.output.index("Groups")
    for key in set(yaml.safe_load((CONF / "method/uamt.yaml").read_text())) - {"_target_"}:
        assert f"method.{key}: " in given.output


def comments(file: Path) -> list[str]:
    """The comments behind the keys of a file, each with the lines in which it goes on."""
    found: list[str] = []
    goes_on = False
    for line in file.read_text().splitlines():
        key = re.match(r" *(?!defaults|_target_)\w+:[^#]*(?:\"#[^#]*)*# (.*)", line)
        if key:
            found.append(key[1])
        elif goes_on and (more := re.fullmatch(r" +# (.*)", line)):
            found[-1] += f" {more[1]}"
        goes_on = bool(key) or (goes_on and bool(re.match(" +# ", line)))
    return found


@pytest.mark.parametrize("group", sorted({*GROUPS} - {"experiment", "postprocess"}))
def test_help_on_a_choice_cuts_no_comment(group: str) -> None:
    for file in (CONF / group).glob("*.yaml"):
        given = help_text("train", [f"{group}={file.stem}"], [CONF])
        assert not [comment for comment in comments(file) if f"# {comment}\n" not in given], file


def test_there_are_comments_of_two_lines() -> None:
    found = comments(CONF / "dataset/folder.yaml")
    assert (
        "cases (Dice and distances of each case; the default for volumes) | pixels (IoU and accuracy from one "
        in str(found)
    )
    assert "confusion matrix; the default for single images)" in str(found)


@pytest.mark.parametrize("buffer", ["", "1"])
@pytest.mark.parametrize("command", MODULES)
def test_a_command_whose_pipe_is_closed_ends_without_a_word(command: str, buffer: str, tmp_path: Path) -> None:
    ours, closed = os.pipe()
    os.close(ours)
    arguments, set_ = [sys.executable, "-m", MODULES[command], "--help"], {**os.environ, "PYTHONUNBUFFERED": buffer}
    ended = subprocess.run(arguments, env=set_, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, check=False)
    os.close(closed)
    assert ended.returncode in (0, 1)  # argparse minds no closed pipe
    assert ended.stderr == b""


# -- typing errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("methd=uamt", ["methd", "did you mean method?"]),
        ("labeled_ratoi=0.2", ["labeled_ratoi", "did you mean labeled_ratio?"]),
        ("method=uampt", ["method=uampt", "did you mean uamt?", "supervised"]),
        ("method=uamt method.ema_deca=0.9", ["method.ema_deca", "did you mean method.ema_decay?"]),
        ("lr=0.1", ["'lr'", "optimizer.lr"]),
        ("dataset=acdc dataset.rot=DATA", ["dataset.rot", "did you mean dataset.root?"]),
        ("experiment=acdc_smal", ["did you mean acdc_small?"]),
        ("method=UAMT", ["method=UAMT", "did you mean uamt?"]),
        ("dataset=ACDC", ["dataset=ACDC", "did you mean acdc?"]),
        ("Labeled_Ratio=0.2", ["did you mean labeled_ratio?"]),
        ("select=hd59", ["select=hd59", "did you mean hd95?"]),
        ("select=Dice", ["select=Dice", "did you mean dice?"]),
        ("select=dice/ventricle", ["select=dice/ventricle", "right_ventricle, myocardium, left_ventricle"]),
        ("select=pixel_accuracy", ["select=pixel_accuracy", "not measured here"]),
        ("dataset=voc2012 select=iuo", ["select=iuo", "did you mean iou?"]),  # not: dataset.root is not set
        ("metrics.more=[no_such.metric]", ["metrics.more=no_such.metric", "PYTHONPATH"]),
        ("metrics.more=[ssl4seg.scoring.metrics.mertics]", ["metrics.more=", "holds no mertics"]),
        ("-m method=supervised,uampt", ["method=uampt", "did you mean uamt?"]),
        ("method=supervised,uamt", ["method=supervised,uamt", "-m"]),
        ("seed=0,1", ["seed=0,1: several values need -m"]),
        ("dataset.image_size=32,32,16", ["brackets: dataset.image_size=[32,32,16]; several values", "need -m"]),
        ("network.channels=4,8", ["brackets: network.channels=[4,8]; several values"]),
        ("logger=csv,tensorboard", ["brackets: logger=[csv,tensorboard]; several values"]),
        ("-m optimizer.lr=0.003,0.01 seed=1 ++optimizer.lr=0.003", ["optimizer.lr=0.003,0.01 ++optimizer.lr=0.003"]),
        ("-m method=uamt method=bcp,dtc", ["method=uamt method=bcp,dtc: method is typed twice"]),
        ("batch_size=abc", ["batch_size=abc", "whole number"]),
        ("labeled_ratio=2", ["labeled_ratio=2", "(0, 1]"]),
        ("seed", ["seed"]),
        ("method=mean_teacher method.weight=1", ["did you mean method.consistency_weight?"]),
        ("method=mean_teacher method.consistency=1", ["did you mean method.consistency_weight?"]),
        ("+iteratons=9", ["there is no key 'iteratons'", "did you mean iterations?"]),
        ("+engine.foo=1", ["there is no key 'engine.foo'"]),
        ("labeled_ratio=0.1 labeled_cases=3", ["labeled_ratio=0.1 labeled_cases=3", "only one of"]),
        ("labeled_list=none.txt", ["labeled_list=none.txt", "no such file"]),
        ("labeled_list=voc2012/93", ["labeled_list=voc2012/93", "did you mean voc2012/92?", "cityscapes/1_16"]),
        ("network.weights=none.pt", ["network.weights=none.pt", "no such file"]),
        ("device=tpu", ["device=tpu", "auto, cpu, cuda, mps"]),
        ("precision=8", ["precision=8", "bf16-mixed"]),
        ("metrics.unit=km", ["metrics.unit=km", "voxel"]),
        ("metrics.empty=some", ["metrics.empty=some", "worst"]),
        ("dataset=acdc", ["dataset.root is not set", "dataset.root=DATA/ACDC"]),
        ("dataset=folder", ["dataset.root is not set", "dataset.root=DATA/MINE"]),
        ("network.encoder=resnet18", ["no key 'network.encoder' in the chosen network, but in network=deeplabv3, "]),
        ("dataset=acdc dataset.root=none", ["dataset.root=none", "no such folder"]),
        ("--config-dir nowhere", ["--config-dir nowhere"]),
        ("method=uamt --config-dir nowhere seed=1", ["--config-dir nowhere: there is no such folder"]),
        ("--labeled-ratio 0.1", ["--labeled-ratio: there is no such option", "labeled_ratio=VALUE"]),
        ("tag=../../../../OUTSIDE", ["tag=../../../../OUTSIDE: expected a name", "without /"]),
        ("tag='\"${device}/../x\"'".replace("'", ""), ["'unet-0.1-s0-auto/../x'", "see tag"]),
        ("~method", ["~method: cannot be left out", "method=..."]),
        ("~engine.log_every", ["~engine.log_every: cannot be left out"]),
    ],
)
def test_a_typing_error_is_named_with_the_right_word(arguments: str, named: list[str], tmp_path: Path) -> None:
    given = answer("train", *arguments.split(), cwd=tmp_path)
    assert given.code == 1
    assert all(word in given.output for word in named), given.output
    assert_at_once(given)
    assert not [path for path in tmp_path.rglob("*") if path.name != "outputs"]


def test_the_yaml_of_a_config_folder_has_limits(tmp_path: Path) -> None:
    (tmp_path / "conf/dataset").mkdir(parents=True)
    (tmp_path / "conf/notes.yaml").write_text("--- of no group,\n--- so it is not read")
    (tmp_path / "conf/dataset/mine.yaml").write_text("classes: " + "[" * 5000 + "]" * 5000)
    given = answer("train", "--config-dir", "conf", "dataset=mine", cwd=tmp_path)
    assert given.code == 1
    assert "conf/dataset/mine.yaml: line 1 is nested more than 50 deep" in given.output
    assert "Traceback" not in given.output
    assert_at_once(given)


def test_the_choices_that_have_a_key_are_all_named() -> None:
    with pytest.raises(UserError) as told:
        check("train", ["network=unet", "network.encoder=resnet18"], [], sweep=False)
    files = {file.stem for file in (CONF / "network").glob("*.yaml") if "\nencoder: " in file.read_text()}
    assert len(files) > 5
    assert str(told.value).endswith(f"network={', '.join(sorted(files))}")
    with pytest.raises(UserError, match=r"did you mean network\.dropout\?"):
        check("train", ["network.dropuot=0"], [], sweep=False)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a/b", "..", "x" * 201, "\udcff"])
def test_what_is_no_name_of_one_folder_is_no_tag_and_no_part_of_one(name: str) -> None:
    assert not KEYS["tag"].fits(name)
    with pytest.raises(UserError, match="the run folder would be named"):
        run_name("unet", 0.1, None, None, None, None, 0, f"/{name}" if name == ".." else name)


@pytest.mark.parametrize("tag", ["{a}", "lr0.01", 3, 0.5, "=1+1", "a b", "ünï", "x" * 99])
def test_other_words_and_numbers_are_tags(tag: object) -> None:
    assert KEYS["tag"].fits(tag)
    assert run_name("unet", 0.1, None, None, None, None, 0, tag) == f"unet-0.1-s0-{tag}"  # type: ignore[arg-type]


def test_an_argument_of_what_is_built_may_be_left_out() -> None:
    check("train", ["~optimizer.momentum"], [], sweep=False)


def test_options_may_be_typed_anywhere(tmp_path: Path) -> None:
    words = ["seed=1", "-m", "tag=a", "--config-dir", "mine", "method=uamt", "--cfg=job"]
    assert _for_hydra(words) == ["-m", "--config-dir", "mine", "--cfg=job", "seed=1", "tag=a", "method=uamt"]


INTERRUPTED = """
import _thread, signal, sys
from omegaconf import OmegaConf

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background

def interrupt():  # a real SIGINT, in the midst of the composition
    _thread.interrupt_main()
    while True:
        pass

OmegaConf.register_new_resolver("interrupt", interrupt)
sys.argv[1:] = ['tag="${interrupt:}"']
from ssl4seg.train import main
main()
"""


def test_ctrl_c_while_the_configuration_is_composed_exits_with_130(tmp_path: Path) -> None:
    assert shell(sys.executable, "-c", INTERRUPTED, cwd=tmp_path) == (130, "")


@pytest.mark.parametrize("key", ["+optimizer.foreach", "++iterations", "+views.weak.fill_image"])
def test_a_key_may_be_added_where_something_is_built_of_it(key: str) -> None:
    check("train", [f"{key}=1"], [], sweep=False)


def test_the_values_in_conf_are_in_their_ranges() -> None:
    for path in CONF.rglob("*.yaml"):
        group = "" if path.parent == CONF else f"{path.parent.name}."
        keys = yaml.safe_load(path.read_text())
        for key, fits in keys_for(path.stem if path.parent == CONF else "").items():
            name = key.removeprefix(group)
            if name in keys and key.startswith(group):
                value = keys[name]
                assert (isinstance(value, str) and "${" in value) or fits.fits(value), (path, key)


@pytest.mark.parametrize(
    ("command", "argument", "named"),
    [
        ("eval", "spilt=val", "did you mean split?"),
        ("predict", "inptu=a.png", "did you mean input?"),
        ("predict", "run=.", "input, output not set"),
        ("eval", "split=val", "run=DIR"),
        ("eval", "run=nowhere", "run=nowhere: there is no nowhere"),
        ("eval", "split=train", "split=train: expected val or test"),
        ("eval", "protocol=mine", "protocol=mine: expected one of default, ssl4mis, la"),
        ("eval", "run=here", "checkpoint=best: there is no here/best.pt"),
        ("predict", "run=nowhere input=a output=b", "run=nowhere: there is no nowhere"),
        ("predict", "run=here,there input=a output=b", "brackets: run=[here,there]; several values"),
        ("eval", "run=here,there", "run=here,there: several values need -m"),
        ("eval", "run=her", "run=her: there is no her; did you mean here?"),
        ("export", "run=scans/umat/unet-s0", "there is no scans/umat; did you mean scans/uamt?"),
        ("eval", "run=scans", "some below it: scans/uamt/unet-s0, scans/uamt/unet-s1, scans/uamt/unet-s2, ..."),
        ("rank", "run=scans/empty", "run=scans/empty: is no run folder, it has no config.yaml"),
        ("eval", "run=here/config.yaml", "run=here/config.yaml: is a file"),
        ("predict", "run=here input=a output=b checkpoint=last", "checkpoint=last: there is no here/last.pt"),
        ("predict", "run=here input=a output=b checkpoint=here/config.yaml", "input=a: there is no such"),
    ],
)
def test_so_are_those_of_the_other_commands(command: str, argument: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/config.yaml").write_text("seed: 0\n")
    (tmp_path / "scans/empty").mkdir(parents=True)
    for seed in range(4):
        shutil.copytree(tmp_path / "here", tmp_path / f"scans/uamt/unet-s{seed}")
    given = answer(command, *argument.split(), cwd=tmp_path)
    assert given.code == 1
    assert named in given.output
    assert_at_once(given)


# -- conf/ ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    sorted(file for file in CONF.rglob("*.yaml") if file.parent.name != "experiment"),  # which sets others' keys
    ids=lambda file: str(file.relative_to(CONF)),
)
def test_every_key_is_explained_by_a_comment_of_its_own_or_of_its_parent(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# "), "no title"
    explained: list[tuple[int, bool]] = []  # depth of the open keys, and whether they are explained
    for above, line in zip(["", *lines], lines, strict=False):
        if not (key := re.match(r"( *)([\w/]+):", line)):
            continue
        depth, name = len(key[1]), key[2]
        explained = [parent for parent in explained if parent[0] < depth]
        comment = "#" in line or above.lstrip().startswith("# ")
        known = name in ("defaults", "hydra", "_target_")  # Hydra's own
        explained.append((depth, comment or known or any(done for _, done in explained)))
        children = line.rstrip().endswith(":")
        assert explained[-1][1] or children, f"{name} has no comment"


@pytest.mark.parametrize("option", ["--resolve", "--shell-completion"])
def test_an_option_of_hydras_that_lacks_its_other_half_gets_hydras_words_without_a_traceback(
    option: str, tmp_path: Path
) -> None:
    code, output = shell(sys.executable, "-m", MODULES["train"], option, "seed=1", cwd=tmp_path)
    assert code == 1
    assert output.startswith("error: hydra: ")
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("prepare", "check", "data"), ("report", "data")])
def test_a_word_that_is_not_understood_is_printed_without_its_escapes(words: tuple[str, ...], tmp_path: Path) -> None:
    name, *before = words
    code, output = shell(sys.executable, "-m", MODULES[name], *before, "--\x1b[31mred", cwd=tmp_path)
    assert code == 2
    assert "unrecognized arguments" in output
    assert "\x1b" not in output
