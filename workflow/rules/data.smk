"""Data: any source to chunks, chunks to the packed store."""


rule download_source:
    output:
        manifest="data/{dataset}/raw/manifest.json",
    log:
        "logs/download/{dataset}.log",
    benchmark:
        "benchmarks/download/{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of([PLAN.dataset]),
    localrule: PLAN.needs_network
    conda:
        "../envs/novelview.yaml"
    threads: RESOURCES["data"]["threads"]
    resources:
        mem_mb=RESOURCES["data"]["mem_mb"],
        runtime=240,
    params:
        stage=PLAN.stage("download", out=f"data/{PLAN.dataset}/raw"),
        source=SOURCE,
        out=subpath(output.manifest, parent=True),
    message:
        "Fetching or generating the data set {wildcards.dataset}"
    shell:
        "python -m novelview.stages.download --config {params.stage[config]}"
        " io.out={params.out} runtime.workers={threads} 2>&1 | tee {log}"


rule pack_scenes:
    input:
        manifest="data/{dataset}/raw/manifest.json",
    output:
        manifest="data/{dataset}/packed/manifest.json",
    log:
        "logs/preprocess/{dataset}.log",
    benchmark:
        "benchmarks/preprocess/{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(PLAN.datasets),
    priority: RESOURCES["priority"]["preprocess"]
    conda:
        "../envs/novelview.yaml"
    threads: RESOURCES["data"]["threads"]
    resources:
        mem_mb=RESOURCES["data"]["mem_mb"],
        runtime=240,
    params:
        stage=lambda wildcards: PLAN.stage(
            "preprocess", PLAN.datasets[wildcards.dataset], out=f"data/{wildcards.dataset}/packed"
        ),
        raw=subpath(input.manifest, parent=True),
        out=subpath(output.manifest, parent=True),
    message:
        "Packing the frames of {wildcards.dataset}"
    shell:
        "python -m novelview.stages.preprocess --config {params.stage[config]}"
        " io.raw={params.raw} io.out={params.out} runtime.workers={threads} 2>&1 | tee {log}"


rule download:
    input:
        f"data/{PLAN.dataset}/raw/manifest.json",


rule preprocess:
    input:
        [f"data/{name}/packed/manifest.json" for name in PLAN.datasets],
