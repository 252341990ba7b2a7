"""Evaluation: per-target rows, summary with intervals, pictures, poses and videos of every trained model.

The wildcard `on` is empty for the cameras the data came with, `-colmap` or `-vggt` for estimated ones.
"""


rule evaluate_model:
    input:
        packed=f"data/{PLAN.dataset}{{on}}/packed/manifest.json",
        raw=f"data/{PLAN.dataset}{{on}}/raw/manifest.json",
        weights=lambda wildcards: PLAN.at(wildcards).weights,
        backbones=exchange.metric_weights(PLAN),
    output:
        summary=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/evaluation{{on}}/summary.json",
        rows=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/evaluation{{on}}/rows.csv",
        gallery=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/evaluation{{on}}/gallery.safetensors",
        # The means alone, small enough for git, where `dvc metrics diff` compares them.
        metrics=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/metrics{{on}}.json",
    log:
        f"logs/evaluate/{PLAN.scale}-{{run}}-{{data}}-x{{res}}{{on}}.log",
    benchmark:
        f"benchmarks/evaluate/{PLAN.scale}-{{run}}-{{data}}-x{{res}}{{on}}.tsv"
    wildcard_constraints:
        run=PLAN.only(PLAN.runs()),
        on=f"(?:{one_of([f'-{name}' for name in PLAN.estimators])})?",
    priority: PLAN.first("evaluate")
    conda:
        "../../environment.yml"
    threads: PLAN.train_threads
    resources:
        mem_mb=PLAN.memory_mb,
        runtime=240,
        gpu=PLAN.gpus,
        nodes=1,
        cpus_per_task=PLAN.cpus,
    params:
        overrides=lambda wildcards: PLAN.stage("evaluate", wildcards.on.removeprefix("-"))["overrides"],
        digest=lambda wildcards: PLAN.stage("evaluate", wildcards.on.removeprefix("-"))["digest"],
        source=PLAN.stage("evaluate")["source"],
        packed=subpath(input.packed, parent=True),
        raw=subpath(input.raw, parent=True),
        out=subpath(output.summary, parent=True),
    message:
        "Evaluating {wildcards.run}{wildcards.on} at {wildcards.res}"
    shell:
        "python -m novelview.stages.launch --gpus {resources.gpu} --nodes {resources.nodes}"
        " --cpus {resources.cpus_per_task} novelview.stages.evaluate {params.overrides} --expect-digest {params.digest}"
        " io.packed={params.packed} io.raw={params.raw} io.weights={input.weights} io.out={params.out}"
        " io.metrics={output.metrics} runtime.threads={threads} 2>&1 | tee {log}"


rule evaluate:
    input:
        [f"{one.folder}/summary.json" for one in PLAN.evaluations],
