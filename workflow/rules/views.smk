"""What views cost: reconstruction and rendering timed by number of context views and image size."""


rule measure_latency:
    input:
        packed=f"data/{PLAN.dataset}/packed/manifest.json",
        weights=[run.weights for run in PLAN.runs()],
    output:
        f"{PLAN.results}/latency.csv",
    log:
        f"logs/latency/{PLAN.tag}.log",
    benchmark:
        f"benchmarks/latency/{PLAN.tag}.tsv"
    retries: 0
    conda:
        "../envs/novelview.yaml"
    # Every core: what is timed must not share the machine with other jobs.
    threads: workflow.cores
    resources:
        **RESOURCES["latency"],
        runtime=60,
    params:
        stage=lambda wildcards: PLAN.stage("latency", models=tuple(sorted({run.model for run in PLAN.runs()}))),
        packed=subpath(input.packed, parent=True),
        models=word_list([run.weights for run in PLAN.runs()]),
    message:
        "Timing reconstruction and rendering"
    shell:
        "python -m novelview.stages.launch --gpus {resources.gpu} novelview.stages.latency --config {params.stage[config]}"
        " io.packed={params.packed} io.models={params.models} io.out={output} runtime.threads={threads} 2>&1 | tee {log}"
