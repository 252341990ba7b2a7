"""Evaluation: per-target rows, summary with intervals, pictures, poses and videos of every trained model."""


rule evaluate_model:
    input:
        packed=f"data/{PLAN.dataset}/packed/manifest.json",
        raw=f"data/{PLAN.dataset}/raw/manifest.json",
        weights=lambda wildcards: PLAN.at(wildcards).weights,
        backbones=exchange.metric_weights(PLAN),
    output:
        summary=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/evaluation/summary.json",
        rows=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/evaluation/rows.csv",
        gallery=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/evaluation/gallery.safetensors",
        # The means alone, small enough for git, where `dvc metrics diff` compares them.
        metrics=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/metrics.json",
    log:
        f"logs/evaluate/{PLAN.scale}-{{run}}-{{data}}-x{{res}}.log",
    benchmark:
        f"benchmarks/evaluate/{PLAN.scale}-{{run}}-{{data}}-x{{res}}.tsv"
    wildcard_constraints:
        run=PLAN.only(PLAN.runs()),
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
        **PLAN.stage("evaluate"),
        packed=subpath(input.packed, parent=True),
        raw=subpath(input.raw, parent=True),
        out=subpath(output.summary, parent=True),
    message:
        "Evaluating {wildcards.run} at {wildcards.res}"
    shell:
        "python -m novelview.stages.launch --gpus {resources.gpu} --nodes {resources.nodes}"
        " --cpus {resources.cpus_per_task} novelview.stages.evaluate {params.overrides} --expect-digest {params.digest}"
        " io.packed={params.packed} io.raw={params.raw} io.weights={input.weights} io.out={params.out}"
        " io.metrics={output.metrics} runtime.threads={threads} 2>&1 | tee {log}"


rule evaluate:
    input:
        [f"{run.folder}/evaluation/summary.json" for run in PLAN.runs()],
