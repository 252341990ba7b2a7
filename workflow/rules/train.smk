"""Training: the same body twice, from nothing in the first phase and from the weights before in every later one."""


rule pretrain_model:
    input:
        packed=f"data/{PLAN.dataset}/packed/manifest.json",
        backbones=lambda wildcards: exchange.pretrained(PLAN, wildcards),
        pointmaps=lambda wildcards: teachers.manifests(PLAN, wildcards),
    output:
        weights=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/model.safetensors",
        curve=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/train.csv",
    log:
        f"logs/pretrain/{PLAN.scale}-{{run}}-{{data}}-x{{res}}.log",
    benchmark:
        f"benchmarks/pretrain/{PLAN.scale}-{{run}}-{{data}}-x{{res}}.tsv"
    wildcard_constraints:
        run=PLAN.only(PLAN.runs(trained=True, first=True)),
    priority: PLAN.first("pretrain")
    conda:
        "../../environment.yml"
    threads: PLAN.train_threads
    resources:
        mem_mb=PLAN.memory_mb,
        runtime=2880,
        gpu=PLAN.gpus,
        nodes=1,
        cpus_per_task=PLAN.cpus,
    params:
        overrides=lambda wildcards: PLAN.train(wildcards)["overrides"],
        digest=lambda wildcards: PLAN.train(wildcards)["digest"],
        source=lambda wildcards: PLAN.train(wildcards)["source"],
        packed=subpath(input.packed, parent=True),
        pointmaps=lambda wildcards: teachers.option(PLAN, wildcards),
    message:
        "Pretraining {wildcards.run} at {wildcards.res} on {wildcards.data}"
    shell:
        "python -m novelview.stages.launch --gpus {resources.gpu} --nodes {resources.nodes}"
        " --cpus {resources.cpus_per_task} novelview.stages.train {params.overrides} --expect-digest {params.digest}"
        " io.packed={params.packed} {params.pointmaps} io.out={output.weights} io.log={output.curve}"
        " io.checkpoints=checkpoints/pretrain/{params.digest} runtime.threads={threads} 2>&1 | tee {log}"


rule finetune_model:
    input:
        packed=f"data/{PLAN.dataset}/packed/manifest.json",
        init=lambda wildcards: PLAN.at(wildcards).start,
        backbones=lambda wildcards: exchange.pretrained(PLAN, wildcards),
        pointmaps=lambda wildcards: teachers.manifests(PLAN, wildcards),
    output:
        weights=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/model.safetensors",
        curve=f"results/{PLAN.scale}/models/{{run}}/{{data}}/x{{res}}/train.csv",
    log:
        f"logs/finetune/{PLAN.scale}-{{run}}-{{data}}-x{{res}}.log",
    benchmark:
        f"benchmarks/finetune/{PLAN.scale}-{{run}}-{{data}}-x{{res}}.tsv"
    wildcard_constraints:
        run=PLAN.only(PLAN.runs(trained=True, first=False)),
    priority: PLAN.first("finetune")
    conda:
        "../../environment.yml"
    threads: PLAN.train_threads
    resources:
        mem_mb=PLAN.memory_mb,
        runtime=2880,
        gpu=PLAN.gpus,
        nodes=1,
        cpus_per_task=PLAN.cpus,
    params:
        overrides=lambda wildcards: PLAN.train(wildcards)["overrides"],
        digest=lambda wildcards: PLAN.train(wildcards)["digest"],
        source=lambda wildcards: PLAN.train(wildcards)["source"],
        packed=subpath(input.packed, parent=True),
        pointmaps=lambda wildcards: teachers.option(PLAN, wildcards),
    message:
        "Finetuning {wildcards.run} at {wildcards.res} on {wildcards.data}"
    shell:
        "python -m novelview.stages.launch --gpus {resources.gpu} --nodes {resources.nodes}"
        " --cpus {resources.cpus_per_task} novelview.stages.train {params.overrides} --expect-digest {params.digest}"
        " io.packed={params.packed} {params.pointmaps} io.init={input.init} io.out={output.weights} io.log={output.curve}"
        " io.checkpoints=checkpoints/finetune/{params.digest} runtime.threads={threads} 2>&1 | tee {log}"


rule pretrain:
    input:
        [run.weights for run in PLAN.runs(trained=True, first=True)],


rule finetune:
    input:
        [run.weights for run in PLAN.runs(trained=True, first=False)],
