"""Published checkpoints in, our own weights out. Nothing here is part of `all`."""

or_exit(lambda: exchange.check_adopted(PLAN))


localrules:
    publish_model,
    release_model,


rule adopt_model:
    input:
        checkpoint=lambda wildcards: exchange.checkpoint_of(adopted_run(wildcards)),
    output:
        weights=f"results/{PLAN.scale}/models/{{run}}/published/{{phase}}-x{{res}}/model.safetensors",
    log:
        f"logs/adopt/{PLAN.scale}-{{run}}-{{phase}}-x{{res}}.log",
    benchmark:
        f"benchmarks/adopt/{PLAN.scale}-{{run}}-{{phase}}-x{{res}}.tsv"
    wildcard_constraints:
        run=one_of(sorted({run.name for run in PLAN.all if run.adopted})),
    retries: 0
    conda:
        "../envs/novelview.yaml"
    resources:
        mem_mb=16000,
        runtime=60,
    params:
        stage=lambda wildcards: PLAN.call("adopt", *exchange.adoption_words(PLAN, adopted_run(wildcards))),
    message:
        "Adopting a published checkpoint as {wildcards.run} at {wildcards.res}"
    shell:
        "python -m novelview.stages.adopt --config {params.stage[config]}" " io.out={output.weights} 2>&1 | tee {log}"


rule publish_model:
    input:
        weights=lambda wildcards: PLAN.run(wildcards).weights,
        summary=f"{MODEL}/evaluation/summary.json",
        rows=f"{MODEL}/evaluation/rows.csv",
    output:
        card=f"{MODEL}/publish/README.md",
        record=f"{MODEL}/publish/published.json",
    log:
        f"logs/publish/{PLAN.scale}-{{run}}-{{data}}-{{phase}}-x{{res}}.log",
    conda:
        "../envs/novelview.yaml"
    resources:
        mem_mb=16000,
        runtime=240,
    params:
        stage=lambda wildcards: exchange.publication(PLAN, "novelview-{run}-{data}-x{res}".format(**wildcards)),
        evaluation=subpath(input.summary, parent=True),
        out=subpath(output.record, parent=True),
    message:
        "Publishing {wildcards.run} at {wildcards.res}"
    shell:
        "python -m novelview.stages.publish --config {params.stage[config]}"
        " io.weights={input.weights} io.evaluation={params.evaluation} io.out={params.out} 2>&1 | tee {log}"


rule publish:
    input:
        [f"{run.folder}/publish/published.json" for run in PLAN.runs()],


rule compact_model:
    input:
        weights=lambda wildcards: RELEASES[wildcards.name].run.weights,
        before=lambda wildcards: RELEASES[wildcards.name].before,
    output:
        weights=f"results/{PLAN.scale}/release/{{name}}/model.safetensors",
    log:
        f"logs/release/{PLAN.scale}-{{name}}.log",
    wildcard_constraints:
        name=one_of(RELEASES),
    priority: 30
    retries: 0
    conda:
        "../envs/novelview.yaml"
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        stage=lambda wildcards: PLAN.call("compact", f"name={wildcards.name}"),
        before=lambda wildcards, input: word_list(input.before),
    message:
        "Rounding {wildcards.name} to bfloat16"
    shell:
        "python -m novelview.stages.compact --config {params.stage[config]}"
        " io.weights={input.weights} io.before={params.before} io.out={output.weights} 2>&1 | tee {log}"


# The study's own evaluation, of the rounded weights: no card quotes numbers of others.
use rule evaluate_model as evaluate_release with:
    input:
        packed=f"data/{PLAN.dataset}/packed/manifest.json",
        raw=f"data/{PLAN.dataset}/raw/manifest.json",
        weights=f"results/{PLAN.scale}/release/{{name}}/model.safetensors",
        backbones=PLAN.metric_weights,
    output:
        summary=f"results/{PLAN.scale}/release/{{name}}/evaluation/summary.json",
        rows=f"results/{PLAN.scale}/release/{{name}}/evaluation/rows.csv",
        gallery=f"results/{PLAN.scale}/release/{{name}}/evaluation/gallery.safetensors",
        metrics=f"results/{PLAN.scale}/release/{{name}}/metrics.json",
    log:
        f"logs/release/{PLAN.scale}-{{name}}-evaluate.log",
    benchmark:
        f"benchmarks/release/{PLAN.scale}-{{name}}.tsv"
    wildcard_constraints:
        name=one_of(RELEASES),
    params:
        stage=lambda wildcards: PLAN.stage("evaluate", models=(RELEASES[wildcards.name].run.model,)),
        packed=subpath(input.packed, parent=True),
        raw=subpath(input.raw, parent=True),
        out=subpath(output.summary, parent=True),
    message:
        "Evaluating {wildcards.name} as it is released"


rule release_model:
    input:
        weights=f"results/{PLAN.scale}/release/{{name}}/model.safetensors",
        summary=f"results/{PLAN.scale}/release/{{name}}/evaluation/summary.json",
        rows=f"results/{PLAN.scale}/release/{{name}}/evaluation/rows.csv",
    output:
        weights="released/{name}/model.safetensors",
        card="released/{name}/README.md",
        record="released/{name}/published.json",
    log:
        f"logs/release/{PLAN.scale}-{{name}}-publish.log",
    wildcard_constraints:
        name=one_of(RELEASES),
    priority: 30
    retries: 0
    conda:
        "../envs/novelview.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        stage=lambda wildcards: exchange.publication(PLAN, wildcards.name, exchange.LICENCE),
        evaluation=subpath(input.summary, parent=True),
        out=subpath(output.record, parent=True),
    message:
        "Releasing {wildcards.name}"
    shell:
        "python -m novelview.stages.publish --config {params.stage[config]}"
        " io.weights={input.weights} io.evaluation={params.evaluation} io.out={params.out} 2>&1 | tee {log}"


rule release:
    input:
        lambda wildcards: [
            f"released/{one.name}/published.json" for one in or_exit(lambda: exchange.require_releases(PLAN))
        ],
