"""Pointmaps of a teacher, for the runs that PM-Loss trains: once a data set, teacher and image size."""


rule teach_pointmaps:
    input:
        packed="data/{dataset}/packed/manifest.json",
        raw="data/{dataset}/raw/manifest.json",
        backbones=lambda wildcards: teachers.teacher_weights(wildcards),
    output:
        manifest="data/{dataset}/pointmaps/{teacher}-x{res}/manifest.json",
    log:
        "logs/pointmaps/{dataset}-{teacher}-x{res}.log",
    benchmark:
        "benchmarks/pointmaps/{dataset}-{teacher}-x{res}.tsv"
    wildcard_constraints:
        dataset="[A-Za-z0-9_.-]+",
        teacher="exact|vggt",
    priority: PLAN.first("pointmaps")
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=PLAN.memory_mb,
        runtime=1440,
        gpu=min(PLAN.gpus, 1),
    params:
        overrides=lambda wildcards: teachers.lesson(PLAN, wildcards)["overrides"],
        digest=lambda wildcards: teachers.lesson(PLAN, wildcards)["digest"],
        source=lambda wildcards: teachers.lesson(PLAN, wildcards)["source"],
        packed=subpath(input.packed, parent=True),
        raw=subpath(input.raw, parent=True),
        out=subpath(output.manifest, parent=True),
    message:
        "Pointmaps of {wildcards.dataset} by teacher {wildcards.teacher} at {wildcards.res}"
    shell:
        "python -m novelview.stages.pointmaps {params.overrides} --expect-digest {params.digest}"
        " io.packed={params.packed} io.raw={params.raw} io.out={params.out} runtime.threads={threads} 2>&1 | tee {log}"
