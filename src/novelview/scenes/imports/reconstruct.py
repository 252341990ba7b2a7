"""Structure from motion with pycolmap, run as a process of its own: `python -m ...reconstruct job.json`.

A process of its own because pycolmap writes its log to the terminal from C++ and can end a process that calls it.
"""

import json
import sys
from pathlib import Path
from typing import Any

EXHAUSTIVE_LIMIT = 150  # photographs; above it only neighbours in file order are matched
MAX_SIDE = 1600  # pixels on which features are found; more costs minutes and adds little
MAX_FEATURES = 4096


def reconstruct(job: dict[str, Any]) -> None:
    """Reconstruct the images in job["images"] and write the largest model to job["model"] (binary COLMAP files).

    job: images, database, models, model (paths), names (files in order), camera_model, single_camera, seed, threads.
    """
    import pycolmap

    pycolmap.set_random_seed(job["seed"])
    mode = pycolmap.CameraMode.SINGLE if job["single_camera"] else pycolmap.CameraMode.PER_IMAGE
    extraction = pycolmap.FeatureExtractionOptions(max_image_size=MAX_SIDE, num_threads=job["threads"], use_gpu=False)
    extraction.sift.max_num_features = MAX_FEATURES
    reader = pycolmap.ImageReaderOptions(camera_model=job["camera_model"])
    pycolmap.extract_features(job["database"], job["images"], job["names"], mode, reader, extraction)
    _match(pycolmap, job)
    options = pycolmap.IncrementalPipelineOptions(random_seed=job["seed"], num_threads=job["threads"])
    options.mapper.random_seed = options.triangulation.random_seed = job["seed"]
    models = pycolmap.incremental_mapping(job["database"], job["images"], job["models"], options)
    if models:
        best = max(models.values(), key=lambda model: model.num_reg_images())
        Path(job["model"]).mkdir()
        best.write_binary(job["model"])


def _match(pycolmap: Any, job: dict[str, Any]) -> None:
    matching = pycolmap.FeatureMatchingOptions(num_threads=job["threads"], use_gpu=False)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = job["seed"]
    keywords = {"matching_options": matching, "verification_options": verification}
    if len(job["names"]) <= EXHAUSTIVE_LIMIT:
        pycolmap.match_exhaustive(job["database"], **keywords)
    else:
        pycolmap.match_sequential(job["database"], **keywords)


if __name__ == "__main__":
    reconstruct(json.loads(Path(sys.argv[1]).read_text()))
