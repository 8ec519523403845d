"""Which files of a repo to fetch: a pure function of its list of files and of what was asked for.

By default what the loader reads and the licence, and nothing else: safetensors with the config and tokenizer
files beside them, or the one GGUF file that there is. Pickles and code, which can run when they are read,
are never fetched. (https://huggingface.co/docs/hub/security-pickle)
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # exported by name only

from samovar_server.downloader.failures import PullFailed
from samovar_server.inventory.gguf_names import shard_of, tag_of

SINGLE, SHARD, INDEX = "model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json"

ABOUT = ("LICENSE*", "README.md")
"""What a model may be used for: the licence, and the card that names it."""

BESIDE_WEIGHTS = (
    *ABOUT,
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)

BEHIND_POOLING = ("*_Pooling/config.json", "*_Dense/config.json", "*_Dense/model.safetensors")
"""What an embedding model's card has in folders of its own, one for each module."""

PICKLES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})
CODE = frozenset({".bat", ".cmd", ".dll", ".dylib", ".exe", ".ipynb", ".js", ".py", ".pyc", ".sh", ".so"})

_SHARD_NUMBERS = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\.\w+)$")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\:]")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repo. `digest` is its sha256 if the Hub keeps it as a large file, else git's sha1.

    The digest is also the name of its blob in the Hugging Face cache.
    """

    path: str
    size: int
    digest: str

    @property
    def is_large(self) -> bool:
        """Whether the digest is a sha256."""
        return len(self.digest) == 64


@dataclass(frozen=True, slots=True)
class Repo:
    """What the Hub says of one commit of a repo. `gated` is whether its terms have to be accepted."""

    name: str
    revision: str
    commit: str
    files: tuple[RepoFile, ...]
    gated: bool = False
    license: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What to fetch of a repo: globs on paths, or the tag of a GGUF file such as Q4_K_M."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The files to fetch from one commit; the weights come last, so that they make the model whole."""

    repo: Repo
    files: tuple[RepoFile, ...]
    refused: tuple[str, ...] = ()
    """What was asked for and is not fetched, as it could run code."""

    @property
    def total_bytes(self) -> int:
        """Of all files, whether they are here already or not."""
        return sum(file.size for file in self.files)


def choose(repo: Repo, choice: Choice) -> Plan:
    """The files of `repo` that `choice` means. Raises PullFailed, saying what there is to choose from."""
    if choice.quantization is not None:
        files = _by_tag(repo, choice.quantization)
    elif choice.include:
        files = list(repo.files)
    else:
        files = _as_loaded(repo) or _only_gguf(repo)
    by_name = filter_repo_objects(
        files,
        allow_patterns=list(choice.include) or None,
        ignore_patterns=list(choice.exclude),
        key=lambda file: file.path,
    )
    wanted = list(by_name)
    safe = [file for file in wanted if not is_dangerous(file.path)]
    if not safe:
        raise _nothing_left(repo, wanted)
    _require_whole(repo, safe)
    for file in safe:
        require_confined(file.path)
    refused = tuple(file.path for file in wanted if is_dangerous(file.path))
    return Plan(repo, tuple(sorted(safe, key=lambda file: (_is_weights(file.path), file.path))), refused)


def is_dangerous(path: str) -> bool:
    """Whether reading the file as what it is could run code of its author."""
    return PurePosixPath(path).suffix.lower() in PICKLES | CODE


def require_confined(path: str) -> None:
    """Raise PullFailed for a name that would lead out of the folder it is to go into."""
    parts = path.split("/")
    if _UNPRINTABLE.search(path) or any(part in ("", ".", "..") or len(part) > 255 for part in parts):
        raise PullFailed(
            "unsafe_name",
            f"The repo has a file named {path!r}, which could be written outside of the model's folder: "
            "samovar does not fetch this repo. Tell its owner, or leave the file out with exclude.",
        )


def quantizations(files: Iterable[RepoFile]) -> tuple[str, ...]:
    """The tags of the GGUF files, in the order of their sizes."""
    sizes: dict[str, int] = {}
    for file in files:
        tag = tag_of(file.path)
        if tag is not None:
            sizes[tag] = sizes.get(tag, 0) + file.size
    return tuple(sorted(sizes, key=lambda tag: (sizes[tag], tag)))


def _as_loaded(repo: Repo) -> list[RepoFile]:
    """Safetensors and what belongs to them; nothing when the repo has no model of that kind."""
    top = {file.path: file for file in repo.files if "/" not in file.path}
    shards = [name for name in top if fnmatch.fnmatchcase(name, SHARD)]
    if SINGLE in top:  # which transformers prefers, too
        weights = [SINGLE]
    elif INDEX in top and shards:
        weights = [INDEX, *shards]
    else:
        return []
    if "config.json" not in top:
        return []
    beside = [file for name, file in top.items() if _is_one_of(name, BESIDE_WEIGHTS)]
    modules = [
        file for file in repo.files if file.path.count("/") == 1 and _is_one_of(file.path, BEHIND_POOLING)
    ]
    return [*beside, *modules, *(top[name] for name in weights)]


def _only_gguf(repo: Repo) -> list[RepoFile]:
    models = [file for file in repo.files if file.path.endswith(".gguf") and not _is_projector(file.path)]
    if not models:
        raise PullFailed(
            "no_safetensors",
            f"{repo.name} has neither safetensors weights with a config.json nor GGUF files, the only kinds "
            "samovar takes (pickles can run code): choose a repo of the model that has them.",
        )
    stems = {(shard_of(file.path) or (file.path, 0, 0))[0] for file in models}
    if len(stems) > 1:
        tags = ", ".join(quantizations(models)) or ", ".join(sorted(stems)[:10])
        raise PullFailed(
            "quantization_needed",
            f"{repo.name} has {len(stems)} GGUF models: choose one with quantization (there are {tags}).",
        )
    return [*models, *_about(repo)]


def _by_tag(repo: Repo, tag: str) -> list[RepoFile]:
    wanted = tag.upper()
    models = [file for file in repo.files if tag_of(file.path) == wanted and not _is_projector(file.path)]
    if not models:
        there = ", ".join(quantizations(repo.files))
        hint = f"it has {there}" if there else "it has no GGUF files at all; leave quantization out"
        raise PullFailed(
            "no_such_quantization", f"{repo.name} has no GGUF file of quantization {tag}: {hint}."
        )
    return [*models, *_about(repo)]


def _about(repo: Repo) -> list[RepoFile]:
    return [file for file in repo.files if _is_one_of(file.path, ABOUT)]


def _is_one_of(path: str, globs: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, it) for it in globs)


def _is_projector(path: str) -> bool:
    """Whether it is the eyes of a model, a GGUF file that is no model by itself."""
    return PurePosixPath(path).name.lower().startswith("mmproj")


def _is_weights(path: str) -> bool:
    return path.endswith((".safetensors", ".gguf"))


def _require_whole(repo: Repo, files: Sequence[RepoFile]) -> None:
    """Of weights in several files all or none are of use."""
    there = {file.path for file in files}
    for file in files:
        found = _SHARD_NUMBERS.match(file.path)
        if found is None or not _is_weights(file.path):
            continue
        total = int(found["total"])
        names = [f"{found['stem']}-{n:05}-of-{total:05}{found['suffix']}" for n in range(1, total + 1)]
        lacking = [name for name in names if name not in there]
        if lacking:
            raise PullFailed(
                "incomplete",
                f"Of the {total} parts of {PurePosixPath(found['stem']).name} the repo {repo.name} or the "
                f"choice lacks {len(lacking)} (such as {lacking[0]}): include them all.",
            )


def _nothing_left(repo: Repo, wanted: Sequence[RepoFile]) -> PullFailed:
    if wanted:
        names = ", ".join(file.path for file in wanted[:5])
        return PullFailed(
            "unsafe_files",
            f"Of {repo.name} only files that can run code were asked for ({names}): samovar does not fetch "
            "pickles and programs. Choose safetensors or GGUF files.",
        )
    return PullFailed(
        "no_files",
        f"No file of {repo.name} is left by include and exclude: they are globs on paths such as '*.json'.",
    )
