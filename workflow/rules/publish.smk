"""Published checkpoints in, our own weights out. Nothing here is part of `all`."""

exchange.check(PLAN)


localrules:
    publish_model,


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
        overrides=lambda wildcards: exchange.publication(PLAN, config, wildcards)["overrides"],
        digest=lambda wildcards: exchange.publication(PLAN, config, wildcards)["digest"],
        source=lambda wildcards: exchange.publication(PLAN, config, wildcards)["source"],
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
