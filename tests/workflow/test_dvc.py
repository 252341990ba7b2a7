"""An author shares finished results through a DVC remote; who pulls them has nothing to do, and nothing is harmed."""

import functools
import hashlib
import json
import os
import random
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from checkout import Checkout

RECORDS = ".snakemake/metadata"
EVALUATIONS = {
    f"models/{model}/rooms-full/{last}/evaluation"
    for model in ("uplvsm", "ptlvsm")
    for last in ("pretrain-x28", "finetune-x42")
}
METRICS = "results/demo/models/uplvsm/rooms-full/finetune-x42/metrics.json"
LIGHT = ("figures", "evaluate", "provenance")


def touch_all(checkout: Checkout) -> None:
    """Give every file a time of change of its own, in random order."""
    files = [path for path in checkout.folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    random.Random(0).shuffle(files)
    for number, path in enumerate(files):
        os.utime(path, (1.7e9 + number, 1.7e9 + number))


def hop(checkout: Checkout) -> None:
    checkout.call("git", "checkout", "--quiet", "-b", "other")
    for name in ("src/novelview/stages/evaluate.py", "conf/eval/rooms.yaml", "Snakefile"):
        path = checkout.path(name)
        path.write_text(path.read_text() + "\n")
    checkout.save("other")
    checkout.call("git", "checkout", "--quiet", "main")


def broken_in_cache(checkout: Checkout) -> list[Path]:
    """Return the files of DVC's cache that no longer have the content they are named after."""
    files = [path for path in (checkout.folder / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert files
    named = {path: path.parent.name + path.name.removesuffix(".dir") for path in files}
    return [path for path, name in named.items() if hashlib.md5(path.read_bytes()).hexdigest() != name]


def links(checkout: Checkout) -> set[bool]:
    """Return whether Snakemake's records are links into the cache: {True}, {False} or both."""
    return {
        path.is_symlink() or path.stat().st_nlink > 1 for path in checkout.path(RECORDS).rglob("*") if path.is_file()
    }


def test_a_linked_clone_has_nothing_to_do_and_no_run_writes_into_the_cache(author: Checkout, tmp_path: Path) -> None:
    user = author.pulled(tmp_path / "user", "hardlink")
    touch_all(user)
    assert links(user) == {True}
    assert user.plans() == set()
    user.path("results/demo/less3depend/figures/gaps.png").unlink()
    refused = user.call(*user.command("figures"), status=2)
    assert re.search(rf"^error: .*is a link.*dvc unprotect {re.escape(RECORDS)}", refused, re.MULTILINE)
    assert "Traceback" not in refused and not user.path("results/demo/less3depend/figures/gaps.png").exists()
    assert broken_in_cache(user) == []


@pytest.mark.slow
@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_a_clone_has_nothing_to_do_whatever_happens_to_times(author: Checkout, tmp_path: Path, link: str) -> None:
    user = author.pulled(tmp_path / "user", link)
    assert links(user) == {link != "copy"}
    assert user.plans() == set()
    touch_all(user)
    assert user.plans() == set()
    hop(user)
    assert user.plans() == set()
    user.change("conf/eval/rooms.yaml", {"bootstrap": 21})
    assert user.plans() > EVALUATIONS


@pytest.mark.slow
@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_unprotected_records_let_it_run_and_the_cache_stays_whole(author: Checkout, tmp_path: Path, link: str) -> None:
    user = author.pulled(tmp_path / "user", link)
    user.call("dvc", "unprotect", RECORDS)
    assert user.plans() == set() and links(user) == {False}
    user.change("conf/eval/rooms.yaml", {"bootstrap": 21})
    user.run()
    assert user.plans() == set()
    assert broken_in_cache(user) == []
    user.call("git", "checkout", "--quiet", ".")
    user.call("dvc", "checkout", "--force", "--quiet")
    assert user.plans() == set()


@pytest.mark.slow
def test_lost_records_come_back_from_the_cache(author: Checkout, tmp_path: Path) -> None:
    user = author.pulled(tmp_path / "user")
    touch_all(user)
    for path in list(user.path(RECORDS).rglob("*")):
        if path.is_file():
            path.unlink()
    assert user.plans() != set()
    user.call("dvc", "checkout", "--force", "--quiet", "provenance")
    assert user.plans() == set()
    user.change("conf/models/ptlvsm.yaml", {"recipes.demo.finetune.train.steps": 7})
    assert "models/ptlvsm/rooms-full/finetune-x42/model.safetensors" in user.plans()


@pytest.fixture
def web(author: Checkout) -> Iterator[str]:
    handler = functools.partial(Silent, directory=str(author.folder.with_name("remote")))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.slow
def test_a_light_pull_over_http_gives_the_report(author: Checkout, tmp_path: Path, web: str) -> None:
    author.call("git", "clone", "--quiet", str(author.folder), str(tmp_path / "user"))
    user = Checkout(tmp_path / "user")
    user.call("dvc", "remote", "add", "--local", "--default", "web", web)
    user.call("dvc", "pull", "--quiet", *LIGHT)
    ours, theirs = (where.path("results/demo/less3depend/report/index.html") for where in (user, author))
    assert ours.read_bytes() == theirs.read_bytes() and b"data:video/mp4;base64," in ours.read_bytes()
    assert user.path("results/demo/models/uplvsm/rooms-full/finetune-x42/evaluation/summary.json").is_file()
    assert user.weights() == {} and not user.path("data").exists()
    assert user.plans() == set()


@pytest.mark.slow
def test_an_experiment_puts_the_new_metric_beside_the_old(author: Checkout, tmp_path: Path) -> None:
    user = author.pulled(tmp_path / "user")
    user.call("git", "config", "user.name", "user")
    user.call("git", "config", "user.email", "user@localhost")
    assert "up to date" in user.call("dvc", "status")
    before = json.loads(user.path(METRICS).read_text())
    user.call("dvc", "exp", "run", "--name", "half", "-S", "conf/eval/rooms.yaml:+amp=bf16")
    after = json.loads(user.path(METRICS).read_text())
    assert after != before

    changed = json.loads(user.call("dvc", "metrics", "diff", "--json"))[METRICS]["seen.gap9.psnr"]
    assert changed["old"] == before["seen"]["gap9"]["psnr"] and changed["new"] == after["seen"]["gap9"]["psnr"]
    assert json.loads(user.call("dvc", "params", "diff", "--json")) == {
        "conf/eval/rooms.yaml": {"amp": {"old": None, "new": "bf16"}}
    }
    shown = user.call("dvc", "exp", "show", "--csv")
    assert "half" in shown and str(before["seen"]["gap9"]["psnr"]) in shown
    assert "up to date" in user.call("dvc", "status") and user.plans() == set()

    user.save("Half precision")
    user.call("git", "checkout", "--quiet", "HEAD~1")
    user.call("dvc", "checkout", "--force", "--quiet")
    assert json.loads(user.path(METRICS).read_text()) == before and user.plans() == set()


@pytest.mark.slow
def test_status_metrics_and_plots_tell_what_there_is(author: Checkout, tmp_path: Path) -> None:
    user = author.pulled(tmp_path / "user")
    shown = json.loads(user.call("dvc", "metrics", "show", "--json"))
    assert METRICS in json.dumps(shown) and "psnr" in json.dumps(shown)
    user.call("dvc", "plots", "show", "--out", "plots")
    page = user.path("plots/index.html").read_text()
    assert "Training: loss" in page and "finetune-x42/train.csv" in page
    user.change("conf/models/ptlvsm.yaml", {"recipes.demo.finetune.train.steps": 7})
    status = json.loads(user.call("dvc", "status", "--json"))
    assert set(status) == {"finetune"} and "conf/models/ptlvsm.yaml" in json.dumps(status)
    remark = user.path("src/novelview/figures/plots.py")
    remark.write_text(remark.read_text() + "\n# remark\n")
    assert set(json.loads(user.call("dvc", "status", "--json"))) == {"finetune", "figures"}
