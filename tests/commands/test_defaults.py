"""The YAMLs own the defaults: what a constructor does when a key is left out is what the YAML of its class says."""

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra.utils
import pytest
import yaml
from helpers import PHANTOM, composed
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ssl4seg.commands.conf import conf_dir
from ssl4seg.data.dataset import Dataset
from ssl4seg.data.folder import Folder


def built(tree: Any) -> Iterator[Mapping[str, Any]]:
    """What a YAML builds, at any depth, but for the operations of `views.strong`: theirs are links of a chain."""
    if isinstance(tree, Mapping):
        if str(tree.get("_target_")).startswith("ssl4seg."):
            yield tree
        for value in tree.values():
            yield from built(value)


def written() -> dict[tuple[type, str], list[Any]]:
    """The values of each key of each class, in all YAMLs."""
    found = defaultdict(list)
    for file in sorted(conf_dir().rglob("*.yaml")):
        for keys in built(yaml.safe_load(file.read_text())):
            kind = hydra.utils.get_class(keys["_target_"])
            for key, value in keys.items():
                found[kind, key].append(value)
    return found


def default(kind: type, key: str) -> Any:
    """The default of a constructor's key, its own or else its nearest parent's; `empty` if there is none."""
    for parent in kind.__mro__:
        parameter = inspect.signature(parent.__init__).parameters.get(key)
        if parameter and parameter.kind is parameter.KEYWORD_ONLY:
            return parameter.default
    return inspect.Parameter.empty


def plain(value: Any) -> Any:
    """Tuples as lists, null for a mapping that holds nothing else, and `${oc.select:key,value}` without that key."""
    if str(value).startswith("${oc.select:"):
        value = OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)["value"]
    if isinstance(value, Mapping):
        return value if any(part is not None for part in value.values()) else None
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


OF_EVERY_DATASET = inspect.signature(Dataset.__init__).parameters
"""Their defaults serve datasets of one's own whose YAML leaves them out."""

WRITTEN = {
    (kind, key): values
    for (kind, key), values in written().items()
    if default(kind, key) is not inspect.Parameter.empty
    and not (issubclass(kind, Dataset) and key in OF_EVERY_DATASET)
    and not (kind is Folder and values == [None])  # dataset.yaml says it
}


def test_there_are_many() -> None:
    assert len(WRITTEN) > 250


@pytest.mark.parametrize("kind", {kind: None for kind, _ in WRITTEN}, ids=lambda kind: kind.__name__)
def test_a_constructor_has_the_default_of_a_yaml_of_its_class(kind: type) -> None:
    """Of the only one of most classes: of every method, network and view."""
    values = {key: found for (of, key), found in WRITTEN.items() if of is kind}
    differing = {
        key: (default(kind, key), found)
        for key, found in values.items()
        if plain(default(kind, key)) not in map(plain, found)
    }
    assert not differing


@pytest.mark.parametrize(
    "words",
    [
        PHANTOM,
        ("experiment=la_small", "method=unimatch", "iterations=3", "network.channels=[2,4]"),
        ("dataset=folder", "dataset.root=/x y", "tag=null", "views.strong=[]", "logger=[tensorboard,csv]"),
        ("optimizer=adamw", "optimizer.lr=1e-3", "+method.optimizers.student.lr=0.1"),
    ],
)
def test_the_tests_have_what_hydra_composes(words: Sequence[str]) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        expected = OmegaConf.to_container(compose("train", overrides=[*words]), resolve=True)
    assert composed(*words) == expected
