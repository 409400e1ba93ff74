"""Export: measure the fine-tuned model and write it as others load it."""

from __future__ import annotations

from components.core.measure import main_metric, measure
from components.core.prompts import Prompts
from components.core.step import Context
from components.core.suite import EvaluateParams, load_suite
from components.export.architecture import read_architecture
from components.export.card import model_card
from components.export.params import ExportParams
from components.training.history import write_metrics
from components.training.lanes import use_threads
from components.training.model import load_model, save_model


def run(ctx: Context) -> None:
    """Run the step."""
    params, evaluation = ctx.section(ExportParams), ctx.section(EvaluateParams)
    model, config = load_model(ctx.inputs["model"])
    tasks = load_suite(evaluation.suite, ctx.inputs.get("heldout"))
    use_threads(ctx.threads)
    measured = measure(model, tasks, config["matryoshka_dims"], Prompts.of(config))
    card = model_card(params, read_architecture(ctx.inputs["model"]), config, tasks, measured)
    save_model(model, ctx.outputs["output"], config, {"README.md": card.encode()})
    metrics = {
        task.name: {
            main_metric(task): {str(dim): scores[main_metric(task)] for dim, scores in measured[task.name].items()}
        }
        for task in tasks
    }
    write_metrics(ctx.outputs["metrics"], metrics)
