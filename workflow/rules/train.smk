"""Training: one rule, from nothing in the first phase and from the weights before in every later one."""


rule pretrain_model:
    input:
        packed=packed_data,
        init=lambda wildcards: PLAN.run(wildcards).start or [],
        backbones=lambda wildcards: PLAN.backbones(PLAN.run(wildcards)),
        pointmaps=lambda wildcards: [f"{folder}/manifest.json" for folder in PLAN.pointmaps(PLAN.run(wildcards))],
    output:
        weights=f"{MODEL}/model.safetensors",
        curve=f"{MODEL}/train.csv",
    log:
        f"logs/train/{PLAN.scale}-{{run}}-{{data}}-{{phase}}-x{{res}}.log",
    benchmark:
        f"benchmarks/train/{PLAN.scale}-{{run}}-{{data}}-{{phase}}-x{{res}}.tsv"
    wildcard_constraints:
        run=PLAN.folders(PLAN.runs(trained=True, started=False)),
    priority: RESOURCES["priority"]["pretrain"]
    conda:
        "../envs/novelview.yaml"
    threads: RESOURCES["train"]["threads"]
    resources:
        **{key: value for key, value in RESOURCES["train"].items() if key != "threads"},
        runtime=2880,
        nodes=1,
    params:
        stage=lambda wildcards: PLAN.train(wildcards),
        packed=subpath(input.packed, parent=True),
        init=lambda wildcards, input: f"io.init={input.init}" if input.init else "",
        pointmaps=lambda wildcards: " ".join(f"io.pointmaps={one}" for one in PLAN.pointmaps(PLAN.run(wildcards))),
    message:
        "Training {wildcards.run}, {wildcards.phase} at {wildcards.res} on {wildcards.data}"
    shell:
        "python -m novelview.stages.launch --gpus {resources.gpu} --nodes {resources.nodes}"
        " --cpus {resources.cpus_per_task} novelview.stages.train --config {params.stage[config]}"
        " io.packed={params.packed} {params.pointmaps} {params.init} io.out={output.weights} io.log={output.curve}"
        " io.checkpoints=checkpoints/{wildcards.phase}/{params.stage[digest]} runtime.threads={threads} 2>&1 | tee {log}"


use rule pretrain_model as finetune_model with:
    wildcard_constraints:
        run=PLAN.folders(PLAN.runs(trained=True, started=True)),
    priority: RESOURCES["priority"]["finetune"]


rule pretrain:
    input:
        [run.weights for run in PLAN.runs(trained=True, started=False)],


rule finetune:
    input:
        [run.weights for run in PLAN.runs(trained=True, started=True)],
