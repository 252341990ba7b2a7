"""Pointmaps of a teacher, for the runs that PM-Loss trains: once a data set, teacher and image size."""


rule teach_pointmaps:
    input:
        packed="data/{dataset}/packed/manifest.json",
        raw="data/{dataset}/raw/manifest.json",
        backbones=lambda wildcards: PLAN.teacher_weights(wildcards.teacher),
    output:
        manifest="data/{dataset}/pointmaps/{teacher}-x{res}/manifest.json",
    log:
        "logs/pointmaps/{dataset}-{teacher}-x{res}.log",
    benchmark:
        "benchmarks/pointmaps/{dataset}-{teacher}-x{res}.tsv"
    wildcard_constraints:
        dataset="[A-Za-z0-9_.-]+",
        teacher="exact|vggt",
    priority: RESOURCES["priority"]["pointmaps"]
    conda:
        "../envs/novelview.yaml"
    threads: RESOURCES["pointmaps"]["threads"]
    resources:
        mem_mb=RESOURCES["pointmaps"]["mem_mb"],
        runtime=1440,
        gpu=RESOURCES["pointmaps"]["gpu"],
    params:
        stage=lambda wildcards: PLAN.call(
            "pointmaps",
            *PLAN.pointmap_words(wildcards.teacher, wildcards.res),
            out="data/{dataset}/pointmaps/{teacher}-x{res}".format(**wildcards),
        ),
        packed=subpath(input.packed, parent=True),
        raw=subpath(input.raw, parent=True),
        out=subpath(output.manifest, parent=True),
    message:
        "Pointmaps of {wildcards.dataset} by teacher {wildcards.teacher} at {wildcards.res}"
    shell:
        "python -m novelview.stages.launch --gpus {resources.gpu} novelview.stages.pointmaps --config {params.stage[config]}"
        " io.packed={params.packed} io.raw={params.raw} io.out={params.out} runtime.threads={threads} 2>&1 | tee {log}"
