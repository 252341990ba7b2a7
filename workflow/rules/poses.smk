"""The data set again under estimated cameras, for the evaluations that a study asks for in `poses`."""


rule estimate_poses:
    input:
        manifest=f"data/{PLAN.dataset}/raw/manifest.json",
        weights=lambda wildcards: PLAN.estimator_weights(wildcards.estimator),
    output:
        manifest=f"data/{PLAN.dataset}-{{estimator}}/raw/manifest.json",
        record=f"data/{PLAN.dataset}-{{estimator}}/raw/poses.json",
    log:
        f"logs/poses/{PLAN.dataset}-{{estimator}}.log",
    benchmark:
        f"benchmarks/poses/{PLAN.dataset}-{{estimator}}.tsv"
    wildcard_constraints:
        estimator=one_of(PLAN.estimators),
    priority: RESOURCES["priority"]["poses"]
    conda:
        "../envs/novelview.yaml"
    threads: RESOURCES["poses"]["threads"]
    resources:
        mem_mb=RESOURCES["poses"]["mem_mb"],
        runtime=2880,
        gpu=RESOURCES["poses"]["gpu"],
    params:
        stage=lambda wildcards: PLAN.stage(
            "poses", wildcards.estimator, out=f"data/{PLAN.dataset}-{wildcards.estimator}/raw"
        ),
        raw=subpath(input.manifest, parent=True),
        out=subpath(output.manifest, parent=True),
    message:
        "Cameras of {PLAN.dataset} by {wildcards.estimator}"
    shell:
        "python -m novelview.stages.launch --gpus {resources.gpu} novelview.stages.poses --config {params.stage[config]}"
        " io.raw={params.raw} io.out={params.out} runtime.workers={threads} 2>&1 | tee {log}"


rule poses:
    input:
        [f"data/{PLAN.dataset}-{name}/raw/manifest.json" for name in PLAN.estimators],
