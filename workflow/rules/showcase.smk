"""Released checkpoints, evaluated on the showcase's own rooms and shown in the report; nothing where none is released."""


use rule download_source as film_showcase with:
    wildcard_constraints:
        dataset=one_of(SHOWCASE.datasets),
    params:
        stage=lambda wildcards: PLAN.call("download", *SHOWCASE.overrides("download")),
        out=subpath(output.manifest, parent=True),
    message:
        "Filming the rooms on which released checkpoints are shown"


use rule pack_scenes as pack_showcase with:
    wildcard_constraints:
        dataset=one_of(SHOWCASE.datasets),
    params:
        stage=lambda wildcards: PLAN.call("preprocess", *SHOWCASE.overrides("preprocess")),
        raw=subpath(input.manifest, parent=True),
        out=subpath(output.manifest, parent=True),


use rule evaluate_model as evaluate_released with:
    input:
        packed=f"data/{SHOWCASE.data.dataset}/packed/manifest.json",
        raw=f"data/{SHOWCASE.data.dataset}/raw/manifest.json",
        weights="released/{name}/model.safetensors",
    output:
        summary=f"results/{PLAN.scale}/showcase/{{name}}/evaluation/summary.json",
        rows=f"results/{PLAN.scale}/showcase/{{name}}/evaluation/rows.csv",
        gallery=f"results/{PLAN.scale}/showcase/{{name}}/evaluation/gallery.safetensors",
        metrics=f"results/{PLAN.scale}/showcase/{{name}}/metrics.json",
    log:
        f"logs/showcase/{PLAN.scale}-{{name}}.log",
    benchmark:
        f"benchmarks/showcase/{PLAN.scale}-{{name}}.tsv"
    wildcard_constraints:
        name=one_of(CHECKPOINTS),
    params:
        stage=lambda wildcards: PLAN.call(
            "evaluate", *SHOWCASE.overrides("evaluate"), models=(CHECKPOINTS[wildcards.name].model,)
        ),
        # A file replaced by an older one is not newer than its evaluation.
        checksum=lambda wildcards: CHECKPOINTS[wildcards.name].sha256,
        packed=subpath(input.packed, parent=True),
        raw=subpath(input.raw, parent=True),
        out=subpath(output.summary, parent=True),
    message:
        "Evaluating {wildcards.name}, which was released"


rule showcase:
    input:
        [f"{folder}/summary.json" for folder in SHOWCASE.folders],
