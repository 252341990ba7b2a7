"""Stage `poses` in time boxes: the estimates of earlier calls are taken over, and the data set is that of one call."""

from pathlib import Path

import pytest
from posed_samples import Fake, raw_data, stage

from novelview.config.schema import RuntimeConfig
from novelview.stages import poses
from novelview.timebox import BoxEnded

KEYS = ["whole", "part", "other", "killed", "none"]


def test_boxed_calls_end_with_the_data_set_of_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = raw_data(tmp_path / "data/raw", KEYS)
    found: list[str] = []
    for out, minutes in ((tmp_path / "whole/raw", 0.0), (tmp_path / "boxed/raw", 1e-9)):
        ended = 0
        for _ in range(20):
            fake = Fake()
            monkeypatch.setattr(poses, "estimator", lambda cfg, fake=fake: fake)
            try:
                poses.poses(stage(raw, out, runtime=RuntimeConfig(max_minutes=minutes)))
                break
            except BoxEnded:
                ended += 1
                assert not out.exists()
            found += fake.calls
        assert ended <= len(KEYS) and (ended > 1) == (minutes > 0)
    assert found.count("whole") == 1
    for path in sorted((tmp_path / "whole/raw").rglob("*")):
        other = tmp_path / "boxed/raw" / path.relative_to(tmp_path / "whole/raw")
        if path.is_file() and path.name not in ("poses.json", "manifest.json"):  # these tell the seconds of each scene
            assert other.read_bytes() == path.read_bytes(), path
