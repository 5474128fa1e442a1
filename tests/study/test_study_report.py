import csv
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from study_runs import leave

pytest.importorskip("matplotlib")

from dqn_cli.study import page as pages
from dqn_cli.study import report
from dqn_cli.study.canvas import COLORS, Picture
from dqn_cli.study.settings import Aggregate, ReportConfig

EVIL = "<script>alert(1)</script>$\\frac"
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Checked(HTMLParser):
    """Every tag that opens is closed; ids are there once; remembers tags, addresses and texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.texts = [], set(), [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("src", "href", "xlink:href") if key in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def make(folder, out, **settings):
    config = ReportConfig(out=str(out), reps=200, **settings)
    study, summary = report.analyzed([folder], config)
    told = []
    page = report.write(study, summary, config, "dqn-report runs", told.append)
    return page.read_text(), told


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for env in ("CartPole-v1", EVIL):
        for name in ("ddqn", "tdqn"):
            for seed in (0, 1, 2):
                values = [10.0 * seed, 100.0 + seed, 480.0 + seed]
                place = folder / f"{env[:3].strip('<')}_{name}_{seed}"
                leave(place, values, env, seed, words=[f"variant={name}"], variant__name=name)
    failed = leave(folder / "failed", [1.0], seed=7, finished=False, words=["variant=ddqn"], variant__name="ddqn")
    result = {"job": 1, "status": "failed", "error": "GPU & <b>fell</b> out", "overrides": []}
    (failed / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(scope="module")
def made(sweep, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "report"
    text, told = make(sweep, out)
    return out, text, told


def test_the_page_is_whole_and_needs_nothing_else(made):
    _, text, _ = made
    found = Checked(text)
    assert "script" not in found.tags
    assert {"b", "iframe", "link", "object"}.isdisjoint(found.tags)
    assert len(found.ids) == len({*found.ids})
    own = [link for link in found.links if link.startswith("#")]
    assert all(link[1:] in found.ids for link in own)
    assert [link for link in found.links if not link.startswith(("#", "data:"))] == []
    assert re.search("https?:", re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)) is None
    assert "Content-Security-Policy" in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_tells_what_a_reader_needs(made):
    _, text, _ = made
    words = " ".join(Checked(text).texts)
    assert "12 runs of 2 configurations in 2 environments" in words
    assert "GPU & <b>fell</b> out" in words
    assert EVIL in words
    assert "dqn-train env=CartPole-v1 seed=2 variant=tdqn" in words
    assert "torch 2.13.0" in words
    assert "variant=ddqn (n = 3)" in words


def test_pictures_and_tables_are_files_too(made):
    out, _, told = made
    svgs, pngs = (sorted(path.stem for path in (out / "figures").glob(f"*.{kind}")) for kind in ("svg", "png"))
    assert svgs == pngs
    assert {name.split("_")[0] for name in svgs} == {"all", "curve", "threshold", "values", "wall"}
    assert len(told) == len(svgs)
    for path in (out / "figures").glob("*.svg"):
        text = path.read_text()
        ElementTree.fromstring(text)
        if "threshold" not in path.name:
            assert "95 %" in text, path.name
        assert "n = " in text or "of 3)" in text, path.name
    tables = {path.name: rows_of(path) for path in (out / "tables").glob("*.csv")}
    rows = tables["summary.csv"]
    assert [(row["env"], row["configuration"], row["n"]) for row in rows[:2]] == [
        (EVIL, "variant=ddqn", "3"),
        (EVIL, "variant=tdqn", "3"),
    ]
    cart = rows[2]
    assert float(cart["final_10_percent"]) == 481.0
    assert (cart["reached_threshold"], cart["median_steps_to_threshold"]) == ("3", "300.0")
    assert len(tables["runs.csv"]) == 13
    assert [row["counted"] for row in tables["runs.csv"]].count("false") == 1
    assert [row["value"] for row in tables["curves.csv"] if row["env"] == "CartPole-v1"][:3] == [
        "10.0",
        "101.0",
        "481.0",
    ]


def test_the_same_runs_give_the_same_bytes(sweep, made, tmp_path):
    out, text, _ = made
    again, _ = make(sweep, tmp_path / "again")
    assert again == text
    for path in (out / "figures").iterdir():
        assert (tmp_path / "again" / "figures" / path.name).read_bytes() == path.read_bytes()


def test_colors_of_a_picture_are_the_pages():
    inside = f'<g id="a" style="stroke: {COLORS[1]}"/><use xlink:href="#a"/></svg>'
    svg = f'<?xml version="1.0"?>\n<svg width="9pt" height="8pt" viewBox="0 0 9 8">{inside}'
    text = pages.inline(Picture("x y", "", "", svg, b""))
    assert text == '<svg viewBox="0 0 9 8"><g id="x-y-a" style="stroke: var(--c1)"/><use xlink:href="#x-y-a"/></svg>'
    assert len(pages.DARK) == len(COLORS)


def test_films_of_the_best_runs_are_in_the_page_as_long_as_there_is_room(tmp_path):
    for seed, score in ((0, 1.0), (1, 5.0)):
        folder = leave(tmp_path / "runs" / str(seed), [score] * 3, seed=seed)
        (folder / "best.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500_000))
    text, _ = make(tmp_path / "runs", tmp_path / "out", video_mb=1)
    assert text.count("data:video/mp4;base64,") == 1
    assert "seed 1, final return 5.000" in text
    text, _ = make(tmp_path / "runs", tmp_path / "out", video_mb=0)
    assert '<a href="../runs/1/best.mp4">' in text
    (tmp_path / "runs" / "1" / "best.mp4").write_bytes(b"<script>")
    text, _ = make(tmp_path / "runs", tmp_path / "out", video_mb=1)
    assert "data:" not in text.replace("data: 'self'", "")


@pytest.mark.parametrize("aggregate", list(Aggregate))
def test_a_single_unfinished_run_is_enough(tmp_path, aggregate):
    leave(tmp_path / "runs" / "a", [1.0], finished=False)
    text, told = make(tmp_path / "runs", tmp_path / "out", aggregate=aggregate)
    assert "unfinished" in text
    assert told[0] == "CartPole-v1: learning curve"


def test_atari_games_have_frames_and_a_human(tmp_path):
    leave(tmp_path / "runs" / "a", [21.0] * 3, env="ALE/Pong-v5", env__frame_skip=4)
    text, _ = make(tmp_path / "runs", tmp_path / "out")
    assert "steps (agent decisions of 4 frames)" in text
    assert "by Wang et al. 2016" in text
    (row,) = rows_of(tmp_path / "out" / "tables" / "summary.csv")
    assert float(row["human_percent"]) == pytest.approx(100 * (21 + 20.7) / (14.6 + 20.7))
    assert row["human_source"] == "Wang et al. 2016"


def test_damaged_files_are_told(tmp_path):
    folder = leave(tmp_path / "runs" / "a")
    (folder / "metrics.csv").write_text((folder / "metrics.csv").read_text() + "x,y\n")
    text, _ = make(tmp_path / "runs", tmp_path / "out")
    assert "runs/a: 1 damaged values or lines of its CSV files left out" in text.split("<h2", 1)[0]


def test_nothing_to_count_is_a_page_that_says_so(tmp_path):
    folder = leave(tmp_path / "runs" / "a", [1.0], finished=False)
    (folder / "metrics.csv").write_text("steps,retur")
    text, told = make(tmp_path / "runs", tmp_path / "out")
    assert told == []
    assert "Not counted: 1 run" in text


def test_runs_without_common_steps(tmp_path):
    leave(tmp_path / "runs" / "a", [1.0], every=100)
    leave(tmp_path / "runs" / "b", [1.0], every=900, seed=1)
    text, _ = make(tmp_path / "runs", tmp_path / "out")
    assert "the runs have no steps in common" in text


def test_more_configurations_than_a_picture_shows(tmp_path):
    for i in range(14):
        leave(tmp_path / "runs" / str(i), [float(i)] * 3, words=[f"x={i}"], x=i)
    text, _ = make(tmp_path / "runs", tmp_path / "out")
    assert "The 12 best of 14 configurations are drawn" in text
    assert "improvements are those of x=13 over each other" in text


def test_files_that_are_links_are_not_written_through(tmp_path):
    leave(tmp_path / "runs" / "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out" / "index.html").symlink_to(tmp_path / "precious")
    make(tmp_path / "runs", tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_spreadsheet_takes_no_name_for_a_formula(tmp_path):
    leave(tmp_path / "runs" / "a", env="=1+1")
    make(tmp_path / "runs", tmp_path / "out")
    assert rows_of(tmp_path / "out" / "tables" / "runs.csv")[0]["env"] == "'=1+1"
