"""Published lists of labelled images, which ship in conf/splits and go by their names: voc2012/92, cityscapes/1_16."""

from pathlib import Path

from ssl4seg.errors import UserError, did_you_mean
from ssl4seg.shipped import conf_dir


def published_lists() -> dict[str, Path]:
    """The file of each list by name, the datasets in alphabetical order and a dataset's lists by their length."""
    files = sorted(conf_dir().glob("splits/*/*.txt"), key=lambda f: (f.parent.name, f.stat().st_size, f.stem))
    return {f"{file.parent.name}/{file.stem}": file for file in files}


def labeled_list(name: str) -> Path:
    """The file that `labeled_list` names: one of the user's own, else a published list.

    Raises:
        UserError: there is neither; it names the published lists.
    """
    own, lists = Path(name), published_lists()
    if own.is_file() or (own.exists() and name not in lists):
        return own
    if name not in lists:
        raise UserError(
            f"labeled_list={name}: there is no such file, and no published list of this name"
            f"{did_you_mean(name, lists)}\npublished lists: {', '.join(lists)}"
        )
    return lists[name]
