"""Where each value of a composed configuration comes from: by Hydra's own list of the files that it merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from hydra._internal.defaults_list import OverrideMetadata, create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from dqn_cli.cli.arguments import GROUPS

DEFAULT, COMMAND_LINE = "default", "command line"
_NO_VALUE = "???"  # OmegaConf's


def sources(config_name: str, overrides: Sequence[str]) -> dict[str, str]:
    """For each group and each dotted key: the file below conf/ that set it last, without `.yaml`, or one of the above.

    Needs the Hydra that these overrides were composed with.
    """
    loader = cast(Any, GlobalHydra.instance().config_loader())
    parsed, repository = loader._parse_overrides_and_create_caching_repo(config_name, list(overrides))
    merged = create_defaults_list(repository, config_name, parsed, prepend_hydra=True, skip_missing=False)
    found: dict[str, str] = {}
    for default in merged.defaults:
        path = str(default.config_path)
        loaded = loader._load_single_config(default=default, repo=repository).config
        content = cast(dict[str, Any], OmegaConf.to_container(loaded, resolve=False))
        source = DEFAULT if path.startswith("schema/") else path
        found |= {key: source for key, value in leaves(content) if value != _NO_VALUE}
    for override in merged.config_overrides:
        found |= {key: COMMAND_LINE for key, _ in leaves({override.key_or_group: override.value()})}
    choices = {group: merged.overrides.override_metadata.get(group) for group in GROUPS}
    return found | {group: config_name if made is None else _maker(made) for group, made in choices.items()}


def _maker(choice: OverrideMetadata) -> str:
    return COMMAND_LINE if choice.external_override else str(choice.containing_config_path)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and what is at the end of them; an empty dictionary is an end too."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
