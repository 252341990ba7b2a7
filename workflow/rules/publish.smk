"""Published checkpoints in, our own weights out. Nothing here is part of `all`."""

told(lambda: exchange.check(PLAN))
if workflow.is_main_process and "release" in sys.argv:
    told(lambda: require_releases(PLAN))


localrules:
    publish_model,
    release_model,


rule adopt_model:
    input:
        checkpoint=lambda wildcards: exchange.checkpoint_of(exchange.adopted(PLAN, wildcards)),
    output:
        weights=f"results/{PLAN.scale}/models/{{run}}/published/x{{res}}/model.safetensors",
    log:
        f"logs/adopt/{PLAN.scale}-{{run}}-x{{res}}.log",
    benchmark:
        f"benchmarks/adopt/{PLAN.scale}-{{run}}-x{{res}}.tsv"
    wildcard_constraints:
        run=one_of(sorted({run.name for run in PLAN.all if run.adopted})),
    conda:
        "../../environment.yml"
    resources:
        mem_mb=16000,
        runtime=60,
    params:
        overrides=lambda wildcards: exchange.adoption(PLAN, wildcards)["overrides"],
        digest=lambda wildcards: exchange.adoption(PLAN, wildcards)["digest"],
        source=lambda wildcards: exchange.adoption(PLAN, wildcards)["source"],
    message:
        "Adopting a published checkpoint as {wildcards.run} at {wildcards.res}"
    shell:
        "python -m novelview.stages.adopt {params.overrides} --expect-digest {params.digest}"
        " io.out={output.weights} 2>&1 | tee {log}"


rule publish_model:
    input:
        weights=lambda wildcards: PLAN.at(wildcards).weights,
        summary=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/evaluation/summary.json",
        rows=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/evaluation/rows.csv",
    output:
        card=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/publish/README.md",
        record=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/publish/published.json",
    log:
        f"logs/publish/{PLAN.scale}-{{run}}-{{data}}-x{{res}}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=16000,
        runtime=240,
    params:
        overrides=lambda wildcards: exchange.publication(config, exchange.hub_name(wildcards))["overrides"],
        digest=lambda wildcards: exchange.publication(config, exchange.hub_name(wildcards))["digest"],
        source=lambda wildcards: exchange.publication(config, exchange.hub_name(wildcards))["source"],
        evaluation=subpath(input.summary, parent=True),
        out=subpath(output.record, parent=True),
    message:
        "Publishing {wildcards.run} at {wildcards.res}"
    shell:
        "python -m novelview.stages.publish {params.overrides} --expect-digest {params.digest}"
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
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        overrides=lambda wildcards: exchange.compacting(wildcards.name)["overrides"],
        digest=lambda wildcards: exchange.compacting(wildcards.name)["digest"],
        source=lambda wildcards: exchange.compacting(wildcards.name)["source"],
        before=lambda wildcards, input: PLAN.listed(input.before),
    message:
        "Rounding {wildcards.name} to bfloat16"
    shell:
        "python -m novelview.stages.compact {params.overrides} --expect-digest {params.digest}"
        " io.weights={input.weights} io.before={params.before} io.out={output.weights} 2>&1 | tee {log}"


# The study's own evaluation, of the rounded weights: no card quotes numbers of others.
use rule evaluate_model as evaluate_release with:
    input:
        packed=f"data/{PLAN.dataset}/packed/manifest.json",
        raw=f"data/{PLAN.dataset}/raw/manifest.json",
        weights=f"results/{PLAN.scale}/release/{{name}}/model.safetensors",
        backbones=exchange.metric_weights(PLAN),
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
        **PLAN.stage("evaluate"),
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
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        overrides=lambda wildcards: exchange.publication(config, wildcards.name, LICENCE)["overrides"],
        digest=lambda wildcards: exchange.publication(config, wildcards.name, LICENCE)["digest"],
        source=lambda wildcards: exchange.publication(config, wildcards.name, LICENCE)["source"],
        evaluation=subpath(input.summary, parent=True),
        out=subpath(output.record, parent=True),
    message:
        "Releasing {wildcards.name}"
    shell:
        "python -m novelview.stages.publish {params.overrides} --expect-digest {params.digest}"
        " io.weights={input.weights} io.evaluation={params.evaluation} io.out={params.out} 2>&1 | tee {log}"


rule release:
    input:
        [f"{one.folder}/published.json" for one in RELEASES.values()],
