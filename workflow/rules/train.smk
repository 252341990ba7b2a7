"""Training: the same body twice, from nothing at the small resolution and from those weights at the large one."""


rule pretrain_model:
    input:
        packed=f"data/{PLAN.dataset}/packed/manifest.json",
    output:
        weights="results/{scale}/models/{model}/{subset}/x{res}/model.safetensors",
        curve="results/{scale}/models/{model}/{subset}/x{res}/train.csv",
    log:
        "logs/pretrain/{scale}-{model}-{subset}-x{res}.log",
    benchmark:
        "benchmarks/pretrain/{scale}-{model}-{subset}-x{res}.tsv"
    wildcard_constraints:
        res=PLAN.sizes("pretrain"),
    conda:
        "../../environment.yml"
    threads: PLAN.train_threads
    resources:
        mem_mb=4000,
        runtime=2880,
        gpu=PLAN.gpus,
    params:
        overrides=lambda wildcards: PLAN.stage("train", wildcards.model, "pretrain")["overrides"],
        digest=lambda wildcards: PLAN.stage("train", wildcards.model, "pretrain")["digest"],
        source=lambda wildcards: PLAN.stage("train", wildcards.model, "pretrain")["source"],
        packed=subpath(input.packed, parent=True),
        launcher=lambda wildcards, resources: PLAN.launcher(resources.gpu),
    message:
        "Pretraining {wildcards.model} at {wildcards.res} on {wildcards.subset}"
    shell:
        "{params.launcher} -m novelview.stages.train {params.overrides} --expect-digest {params.digest}"
        " io.packed={params.packed} io.out={output.weights} io.log={output.curve}"
        " io.checkpoints=checkpoints/pretrain/{params.digest} runtime.threads={threads} 2>&1 | tee {log}"


rule finetune_model:
    input:
        packed=f"data/{PLAN.dataset}/packed/manifest.json",
        init=lambda wildcards: f"{PLAN.run(wildcards.model, 'pretrain')}/model.safetensors",
    output:
        weights="results/{scale}/models/{model}/{subset}/x{res}/model.safetensors",
        curve="results/{scale}/models/{model}/{subset}/x{res}/train.csv",
    log:
        "logs/finetune/{scale}-{model}-{subset}-x{res}.log",
    benchmark:
        "benchmarks/finetune/{scale}-{model}-{subset}-x{res}.tsv"
    wildcard_constraints:
        res=PLAN.sizes("finetune"),
    conda:
        "../../environment.yml"
    threads: PLAN.train_threads
    resources:
        mem_mb=4000,
        runtime=2880,
        gpu=PLAN.gpus,
    params:
        overrides=lambda wildcards: PLAN.stage("train", wildcards.model, "finetune")["overrides"],
        digest=lambda wildcards: PLAN.stage("train", wildcards.model, "finetune")["digest"],
        source=lambda wildcards: PLAN.stage("train", wildcards.model, "finetune")["source"],
        packed=subpath(input.packed, parent=True),
        launcher=lambda wildcards, resources: PLAN.launcher(resources.gpu),
    message:
        "Finetuning {wildcards.model} at {wildcards.res} on {wildcards.subset}"
    shell:
        "{params.launcher} -m novelview.stages.train {params.overrides} --expect-digest {params.digest}"
        " io.packed={params.packed} io.init={input.init} io.out={output.weights} io.log={output.curve}"
        " io.checkpoints=checkpoints/finetune/{params.digest} runtime.threads={threads} 2>&1 | tee {log}"


rule pretrain:
    input:
        [f"{run}/model.safetensors" for run in PLAN.runs(["pretrain"])],


rule finetune:
    input:
        [f"{run}/model.safetensors" for run in PLAN.runs(["finetune"])],
