"""Models of the transformers library from a folder or the user's cache; nothing is downloaded unless asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gs_semantic.errors import InvalidRequestError, MissingExtraError


@dataclass(frozen=True)
class Weights:
    """Where a model is: ``source`` is a folder, or a name on the Hugging Face Hub such as ``owner/model``.

    download: the Hub may be asked for what is not in the cache.
    """

    source: str
    download: bool = False

    @property
    def is_folder(self) -> bool:
        return Path(self.source).expanduser().is_dir()

    @property
    def location(self) -> str:
        return str(Path(self.source).expanduser()) if self.is_folder else self.source

    def model_type(self) -> str:
        """What config.json says the model is, e.g. ``vit``."""
        return str(self._config(transformers()).model_type)

    def load(self, class_name: str, device: str, may_lack: tuple[str, ...] = ()) -> Any:
        """The model of a transformers class, in evaluation mode, on ``device``.

        may_lack: beginnings of the names of weights that are not used and may be missing.
        Raises MissingExtraError when the library or the weights are not there (the text says how to get them), and
        InvalidRequestError when what is there is another model or is damaged.
        """
        library = transformers()
        kind = getattr(library, class_name, None)
        if kind is None:
            raise MissingExtraError(
                f"{class_name}: transformers {library.__version__} does not have it; "
                "pip install --upgrade 'gs_semantic[models]'"
            )
        config = self._config(library)
        expected = kind.config_class.model_type
        if config.model_type != expected:
            raise InvalidRequestError(
                f"{self.location}: holds a model of type '{config.model_type}', expected '{expected}'; "
                "give a folder or a name of such a model"
            )
        try:
            model, found = kind.from_pretrained(
                self.location, local_files_only=not self.download, output_loading_info=True
            )
        except OSError as error:
            raise self.missing(f"no weights ({error})") from None
        except (RuntimeError, ValueError) as error:  # sizes that do not fit; the safetensors library's own errors
            raise InvalidRequestError(f"{self.location}: the weights do not fit the model: {_brief(error)}") from None
        except Exception as error:
            if type(error).__module__.startswith("safetensors"):
                raise InvalidRequestError(f"{self.location}: the weights cannot be read: {_brief(error)}") from None
            raise
        missing = [name for name in found["missing_keys"] if not name.startswith(may_lack)]
        if missing:  # the library would draw them at random and only warn
            names = ", ".join(sorted(missing)[:3])
            raise InvalidRequestError(
                f"{self.location}: {len(missing)} of the weights of {class_name} are not in it "
                f"({names}, ...); give a complete checkpoint"
            )
        return model.eval().requires_grad_(False).to(device)

    def architecture(self) -> str:
        """Name of the transformers class that the weights are of, as their config.json says; empty when it does not."""
        names = self._config(transformers()).architectures or [""]
        return str(names[0])

    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        try:
            return transformers().AutoTokenizer.from_pretrained(self.location, local_files_only=not self.download)
        except (OSError, ValueError) as error:
            raise self.missing(f"no tokenizer ({_brief(error)})") from None

    def preprocessing(self) -> dict[str, Any]:
        """What the model's preprocessor_config.json says; empty without one."""
        hub = transformers().utils
        try:
            path = hub.cached_file(
                self.location,
                "preprocessor_config.json",
                local_files_only=not self.download,
                _raise_exceptions_for_missing_entries=False,
            )
        except OSError:
            return {}
        try:
            return dict(json.loads(Path(path).read_text(encoding="utf-8"))) if path else {}
        except ValueError as error:
            raise InvalidRequestError(f"{path}: is not readable JSON: {error}") from None

    def _config(self, library: Any) -> Any:
        if self.is_folder and not (Path(self.location) / "config.json").is_file():
            raise self.missing("no config.json")
        try:
            return library.AutoConfig.from_pretrained(self.location, local_files_only=not self.download)
        except OSError as error:
            raise self.missing(f"no config.json ({_brief(error)})") from None
        except ValueError as error:
            raise InvalidRequestError(f"{self.location}: config.json: {_brief(error)}") from None

    def missing(self, what: str) -> MissingExtraError:
        """The error for weights that are not there."""
        if self.is_folder:
            return MissingExtraError(
                f"{self.location}: {what}; expected a folder with config.json and model.safetensors as "
                "`save_pretrained` or `hf download --local-dir` leave it"
            )
        return MissingExtraError(
            f"model weights '{self.source}' are neither a folder nor in the cache ({cache_folder()}); get them with "
            f"`hf download {self.source}`, or set the parameter model to a folder that has them, "
            "or the parameter download to true"
        )


def transformers() -> Any:
    """The library, or MissingExtraError."""
    try:
        import transformers as library
    except ImportError as error:
        raise MissingExtraError.for_module("transformers", "models", "this segmenter") from error
    return library


def cache_folder() -> str:
    """Where the Hugging Face libraries keep what they downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def choose_device(device: str) -> str:
    """``auto`` is CUDA where there is some, else the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidRequestError("device: this PyTorch sees no CUDA device; use device auto or cpu")
    return device


def _brief(error: Exception) -> str:
    """The first line of a text that may go on for a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
