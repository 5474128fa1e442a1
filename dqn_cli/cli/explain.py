"""Hydra's many lines about a composition that failed, as one line of ours; and errors that it does not get to tell."""

from __future__ import annotations

import re

from hydra.errors import MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from dqn_cli.cli.paths import choices, in_short
from dqn_cli.config import CHOICES
from dqn_cli.errors import ConfigError
from dqn_cli.validate import ENV_KINDS, SETTINGS, check_key, suggestion, wrong_value

# what Hydra's own plugins are called on the command line, and where they come from
PLUGINS = {
    "hydra/launcher": {
        "joblib": "hydra-joblib-launcher",
        "ray": "hydra-ray-launcher",
        "rq": "hydra-rq-launcher",
        "submitit_local": "hydra-submitit-launcher",
        "submitit_slurm": "hydra-submitit-launcher",
    },
    "hydra/sweeper": {
        "ax": "hydra-ax-sweeper",
        "nevergrad": "hydra-nevergrad-sweeper",
        "optuna": "hydra-optuna-sweeper",
    },
}


class Escaped(BaseException):
    """Carries an error past Hydra, which swallows those of callbacks and announces those of jobs in its own words."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def explain(error: Exception) -> ConfigError:
    """What is wrong, in one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_choice(error)
    text = str(error).splitlines()
    if (file := re.match(r"In '(.+)': ", text[0])) and isinstance(error.__context__, ConfigKeyError):
        return _key_of_file(file[1], error.__context__, text)
    cause = error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return _key(cause, text)
    if isinstance(cause, OmegaConfBaseException):
        match = re.match(r"Error merging override \+*(.*)", text[0])
        return wrong_value(cause, match[1] if match else cause.full_key or text[0])
    return ConfigError(" ".join(line.strip() for line in text[:2] if line.strip()) or type(error).__name__)


def _unknown_choice(error: MissingConfigException) -> ConfigError:
    file = str(error.missing_cfg_file)
    group, _, name = file.partition("/") if file.startswith("env/") else file.rpartition("/")
    if not group:
        return ConfigError(f"--config-name {name} is not in the search path; see dqn-train --info searchpath")
    plugins = PLUGINS.get(group, {})
    if name in plugins:
        return ConfigError(f"{group}={name} is not installed; write pip install {plugins[name]}")
    nested = choices(group) if group == "env" else []
    options = [*dict.fromkeys([*(error.options or []), *nested, *plugins])]
    if inside := [option for option in options if option.startswith(f"{name.rstrip('/')}/")]:
        return ConfigError(f"{group}={name} is not complete; write one of {', '.join(inside)}")
    # Gymnasium's ids too
    bare = re.sub(r"^ALE/|((NoFrameskip|Deterministic|-ram)*-v\d+)$", "", name) if group == "env" else name
    meant = suggestion(bare, options) or _by_meaning(group, name) or f"; write one of {in_short(options)}"
    return ConfigError(f"unknown {group} {name}{meant}")


def _by_meaning(group: str, word: str) -> str:
    """A choice whose description has the word, such as C51, however it is hyphenated."""
    bare = word.casefold().replace("-", "")
    texts = {choice: str(cls.__doc__).casefold().replace("-", "") for choice, cls in CHOICES.get(group, {}).items()}
    found = [choice for choice, text in texts.items() if bare in re.findall(r"\w+", text)]
    return f"; did you mean {found[0]}?" if len(found) == 1 else ""


def _key_of_file(file: str, cause: ConfigKeyError, text: list[str]) -> ConfigError:
    """A file, such as a preset's, that sets what a choice of this run does not have."""
    key = str(cause.full_key)
    if file.startswith("experiment/") and key.startswith("env.") and key in SETTINGS:
        kind = ENV_KINDS[next(iter(SETTINGS[key]))]
        return ConfigError(f"{file} is a preset for {kind}; leave out env=... or write one of those (--list envs)")
    return ConfigError(f"{file}: {_key(cause, text)}")


def _key(cause: OmegaConfBaseException, text: list[str]) -> ConfigError:
    chosen = {group: name for group, names in CHOICES.items() for name in names if names[name] is cause.object_type}
    try:
        check_key(str(cause.full_key), chosen)
    except ConfigError as known:
        return known
    return ConfigError(" ".join(line.strip() for line in text[:2]))
