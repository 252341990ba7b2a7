"""Evaluation: per-target rows, summary with intervals, pictures, poses and videos of every trained model.

The wildcard `on` is empty for the cameras the data came with, `-colmap` or `-vggt` for estimated ones.
"""


rule evaluate_model:
    input:
        packed=f"data/{PLAN.dataset}{{on}}/packed/manifest.json",
        raw=f"data/{PLAN.dataset}{{on}}/raw/manifest.json",
        weights=lambda wildcards: PLAN.run(wildcards).weights,
        backbones=PLAN.metric_weights,
    output:
        summary=f"{MODEL}/evaluation{{on}}/summary.json",
        rows=f"{MODEL}/evaluation{{on}}/rows.csv",
        gallery=f"{MODEL}/evaluation{{on}}/gallery.safetensors",
        # The means alone, small enough for git, where `dvc metrics diff` compares them.
        metrics=f"{MODEL}/metrics{{on}}.json",
    log:
        f"logs/evaluate/{PLAN.scale}-{{run}}-{{data}}-{{phase}}-x{{res}}{{on}}.log",
    benchmark:
        f"benchmarks/evaluate/{PLAN.scale}-{{run}}-{{data}}-{{phase}}-x{{res}}{{on}}.tsv"
    wildcard_constraints:
        run=PLAN.folders(PLAN.runs()),
        on=f"(?:{one_of([f'-{name}' for name in PLAN.estimators])})?",
    priority: RESOURCES["priority"]["evaluate"]
    conda:
        "../envs/novelview.yaml"
    threads: RESOURCES["evaluate"]["threads"]
    resources:
        **{key: value for key, value in RESOURCES["evaluate"].items() if key != "threads"},
        runtime=240,
        nodes=1,
    params:
        stage=lambda wildcards: PLAN.evaluate(wildcards),
        packed=subpath(input.packed, parent=True),
        raw=subpath(input.raw, parent=True),
        out=subpath(output.summary, parent=True),
    message:
        "Evaluating {wildcards.run}{wildcards.on}, {wildcards.phase} at {wildcards.res}"
    shell:
        "python -m novelview.stages.launch --gpus {resources.gpu} --nodes {resources.nodes}"
        " --cpus {resources.cpus_per_task} novelview.stages.evaluate --config {params.stage[config]}"
        " io.packed={params.packed} io.raw={params.raw} io.weights={input.weights} io.out={params.out}"
        " io.metrics={output.metrics} runtime.threads={threads} 2>&1 | tee {log}"


rule evaluate:
    input:
        [f"{one.folder}/summary.json" for one in PLAN.evaluations],
