"""A study that is small enough to be worked out in a test, and networks made elsewhere."""

from pathlib import Path

import numpy as np

from robustkit import spec
from robustkit.analysis.judge import judge_study
from robustkit.data import load_dataset
from robustkit.study import work
from robustkit.study.findings import findings_of_store
from robustkit.study.ray import RayExecutor, Site, attend
from robustkit.study.run import Run, StudyOptions
from robustkit.study.store import StudyStore

STUDY = """
title    = "Tiny"
question = "Does it run?"
baseline = "cross-entropy"

[train]
model      = "NET"
data       = "mnist5k"
seeds      = [0, 1]
steps      = 4
batch_size = 16
hold_out   = "100"

[test]
data  = "mnist5k"
limit = 60

[tuning]
seed = 7
at   = ["0.4"]

[[method]]
name   = "cross-entropy"
loss   = "cross-entropy"
choose = [{ learning_rate = 0.01 }, { learning_rate = 0.1 }]

[[method]]
name     = "wide hinge"
loss     = "hinge"
recipe   = { learning_rate = 0.1 }
choose   = [{ settings = { margin = 1.0 } }, { settings = { margin = 2.0 } }]

[[analysis]]
name   = "label-noise"
factor = "label_noise"
levels = ["0", "0.4"]
delta  = 1.0

[[analysis]]
name      = "transfer"
factor    = "epsilon"
protocol  = "fgsm"
levels    = ["0.05", "0.1"]
limit     = 20
surrogate = "cross-entropy"

[[claim]]
name     = "1"
text     = "The hinge is better."
source   = "nobody"
analysis = "label-noise"
says     = "better"
a        = "wide hinge"
b        = "cross-entropy"
delta    = 1.0
reason   = "a test"

[[claim]]
name     = "2"
text     = "It is cheap on the moon."
source   = "nobody"
analysis = "moon"
says     = "ratio"
a        = "wide hinge"
b        = "cross-entropy"
bounds   = [0.9, 1.1]
reason   = "a test"
"""

NET = """
from torch import nn

def net(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))
"""


def digits(path, train=200, test=60):
    """A file of some of the shipped digits, as many of each; half of 200 are held out above."""
    archive = {}
    for split, count in (("train", train), ("test", test)):
        whole = load_dataset("mnist5k", split=split)
        of_each = [np.flatnonzero(whole.labels == k)[: count // 10] for k in range(10)]
        rows = np.sort(np.concatenate(of_each))
        archive[f"x_{split}"] = np.concatenate([whole.images(row, row + 1)[:, 0] for row in rows])
        archive[f"y_{split}"] = whole.labels[rows]
    np.savez(path, **archive)
    return path


class Here:
    """An executor of one, in this process; it may be told to stop after some jobs."""

    def __init__(self, folder, stop=10**6):
        self.config, self.left = work.WorkerConfig(folder), stop
        self.done, self.trained = [], []

    def execute(self, jobs, began):
        for job in jobs:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            began(job)
            if StudyStore(self.config.folder).cell(job.cell.key) is None:
                self.trained.append(job.cell.key)
            work.carry_out(job, self.config)
            self.done.append(job)
            yield job


class Hurried(Here):
    """An executor whose time is up after some jobs."""

    def execute(self, jobs, began):
        return super().execute(jobs[: self.left], began)


class Apart:
    """Workers that share nothing with the study's folder but a URL, without a cluster."""

    def __init__(self, run, url):
        self.executor = RayExecutor(None, site(run, url))

    def execute(self, jobs, began):
        for job in jobs:
            began(job)
            self.executor._offer(job)
            assert attend(job, self.executor.site) == ""
            self.executor._bring(job)
            yield job


def site(run, url="", **config):
    made = Site(work.WorkerConfig(run.store.folder, **config), Path.cwd(), "mark", str(url))
    made.exchange.put("mark", b"here")
    return made


def begin(tiny, folder, **options):
    run = Run(spec.load_study(str(tiny)), StudyStore(folder), StudyOptions(**options))
    run.register()
    return run


def changed(tiny, tmp_path, old, new):
    path = tmp_path / tiny.name
    text = tiny.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def found(tiny, folder):
    study = spec.load_study(str(tiny))
    return judge_study(study, findings_of_store(study, StudyStore(folder), "robustkit report tiny"))


EXTERNAL = """
title    = "External"
question = "?"
baseline = "ce"

[checkpoints]
pattern = "PATTERN"
model   = "NET"

[test]
data  = "mnist5k"
limit = 50

[[analysis]]
name   = "label-noise"
factor = "label_noise"
delta  = 1.0
"""

CLAIM = """
[[claim]]
name = "{says}"
text = "a and b"
source = "s"
analysis = "label-noise"
says = "{says}"
a = "a"
b = "b"
delta = 2.0
reason = "r"
"""


def external_study(tiny, nets, tmp_path, pattern):
    path = tmp_path / "brought.toml"
    net = f"{tiny.parent / 'net.py'}:net"
    path.write_text(EXTERNAL.replace("PATTERN", str(nets / pattern)).replace("NET", net))
    return path
