"""Figures, tables and the report: each is a rule instance of its own and can be deleted and redrawn alone."""


rule draw_figure:
    input:
        summaries=[f"{one.folder}/summary.json" for one in PLAN.evaluations],
        galleries=[f"{one.folder}/gallery.safetensors" for one in PLAN.evaluations],
        curves=[f"{run.folder}/train.csv" for run in PLAN.runs(trained=True)],
        extras=[*PLAN.extras, *PLAN.records],
    output:
        svg=f"{PLAN.results}/figures/{{figure}}.svg",
        png=report(
            f"{PLAN.results}/figures/{{figure}}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"logs/figures/{PLAN.tag}-{{figure}}.log",
    benchmark:
        f"benchmarks/figures/{PLAN.tag}-{{figure}}.tsv"
    wildcard_constraints:
        figure=one_of(PLAN.figures),
    retries: 0
    conda:
        "../envs/novelview.yaml"
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        stage=lambda wildcards: PLAN.stage("figures", figure=wildcards.figure),
        inputs=word_list([one.folder for one in PLAN.evaluations]),
        curves=word_list([f"{run.folder}/train.csv" for run in PLAN.runs(trained=True)]),
        extras=word_list([*PLAN.extras, *PLAN.records]),
        stem=f"{PLAN.results}/figures/{{figure}}",
    message:
        "Drawing {wildcards.figure}"
    shell:
        "python -m novelview.stages.figures --config {params.stage[config]}"
        " io.inputs={params.inputs} io.curves={params.curves} io.extras={params.extras}"
        " io.out={params.stem} 2>&1 | tee {log}"


rule write_table:
    input:
        summaries=[f"{one.folder}/summary.json" for one in PLAN.evaluations],
    output:
        md=f"{PLAN.results}/tables/{{table}}.md",
        tex=f"{PLAN.results}/tables/{{table}}.tex",
        csv=report(
            f"{PLAN.results}/tables/{{table}}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        f"logs/figures/{PLAN.tag}-{{table}}.log",
    benchmark:
        f"benchmarks/figures/{PLAN.tag}-{{table}}.tsv"
    wildcard_constraints:
        table=one_of(PLAN.tables),
    retries: 0
    conda:
        "../envs/novelview.yaml"
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        stage=lambda wildcards: PLAN.stage("figures", figure=wildcards.table),
        inputs=word_list([one.folder for one in PLAN.evaluations]),
        stem=f"{PLAN.results}/tables/{{table}}",
    message:
        "Writing {wildcards.table}"
    shell:
        "python -m novelview.stages.figures --config {params.stage[config]}"
        " io.inputs={params.inputs} io.out={params.stem} 2>&1 | tee {log}"


rule write_report:
    input:
        summaries=[f"{one.folder}/summary.json" for one in PLAN.evaluations],
        galleries=[f"{one.folder}/gallery.safetensors" for one in PLAN.evaluations],
        curves=[f"{run.folder}/train.csv" for run in PLAN.runs(trained=True)],
        figures=[f"{PLAN.results}/figures/{figure}.png" for figure in PLAN.figures],
        tables=[f"{PLAN.results}/tables/{table}.md" for table in PLAN.tables],
        extras=PLAN.extras,
        showcase=[f"{folder}/{name}" for folder in SHOWCASE.folders for name in ("summary.json", "gallery.safetensors")],
    output:
        f"{PLAN.results}/report/index.html",
    log:
        f"logs/report/{PLAN.tag}.log",
    benchmark:
        f"benchmarks/report/{PLAN.tag}.tsv"
    retries: 0
    conda:
        "../envs/novelview.yaml"
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        stage=PLAN.stage("report"),
        inputs=word_list([one.folder for one in PLAN.evaluations]),
        curves=word_list([f"{run.folder}/train.csv" for run in PLAN.runs(trained=True)]),
        figures=lambda wildcards, output: Path(output[0]).parents[1] / "figures",
        showcase=word_list(SHOWCASE.folders),
    message:
        "Writing the report"
    shell:
        "python -m novelview.stages.report --config {params.stage[config]}"
        " io.inputs={params.inputs} io.curves={params.curves} io.figures={params.figures} io.showcase={params.showcase}"
        " io.out={output} 2>&1 | tee {log}"


rule figures:
    input:
        [f"{PLAN.results}/figures/{figure}.png" for figure in PLAN.figures],
        [f"{PLAN.results}/tables/{table}.md" for table in PLAN.tables],
