"""From run folders to a folder that can be sent to somebody: a page, its pictures and its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dqn_cli.errors import ConfigError, writing
from dqn_cli.study import groups, runs, tables
from dqn_cli.study.groups import Study
from dqn_cli.study.settings import ReportConfig
from dqn_cli.study.summary import Summary, summarize

PAGE, FIGURES, TABLES = "index.html", "figures", "tables"


def analyzed(
    folders: Sequence[Path], settings: ReportConfig, held: Callable[[Path], bool] | None = None
) -> tuple[Study, Summary]:
    """Every run below `folders`, and what they come to. Raises `CheckpointError`, `ConfigError`."""
    study = groups.study(runs.load(folders, settings.env, held), settings.metric, settings.by, settings.unfinished)
    return study, summarize(study, settings.aggregate, settings.threshold, settings.reps)


def write(study: Study, summary: Summary, settings: ReportConfig, command: str, tell: Callable[[str], None]) -> Path:
    """Write the page, the pictures and the tables, and say of each picture that it is drawn; the page's path.

    Raises `StorageError` where the folder cannot be written, `ConfigError` where matplotlib is missing.
    """
    try:
        from dqn_cli.study import page, plots  # matplotlib takes its time, and is an extra
    except ModuleNotFoundError as error:
        raise missing(error) from error
    out = Path(settings.out)
    with writing(out):
        for folder in (out, out / FIGURES, out / TABLES):
            folder.mkdir(parents=True, exist_ok=True)
    for name, text in tables.csv_files(study, summary).items():
        _write(out / TABLES / name, text.encode("utf-8", "backslashreplace"))
    drawn = []
    for picture in plots.pictures(study, summary, settings.aggregate):
        _write(out / FIGURES / f"{picture.name}.svg", picture.svg.encode())
        _write(out / FIGURES / f"{picture.name}.png", picture.png)
        drawn.append(picture)
        tell(picture.title)
    room = settings.video_mb * 1_000_000
    text = page.page(study, summary, drawn, settings.aggregate, settings.reps, command, out, room)
    _write(out / PAGE, text.encode("utf-8", "backslashreplace"))
    return out / PAGE


def missing(error: ModuleNotFoundError) -> ConfigError:
    """The remedy where pictures cannot be drawn."""
    return ConfigError(f"pictures need {error.name}, which is not installed; pip install 'dqn-cli[report]'")


def _write(path: Path, data: bytes) -> None:
    """Never written through: it may be a link to anywhere."""
    with writing(path):
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            file.write(data)
