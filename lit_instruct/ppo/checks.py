"""Refuses contradictions between the options of PPO, its models and its data before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_modules.reading.given import LEAVE_OUT, GivenRows
from lit_instruct.errors import UserError
from lit_instruct.models.checks import check_vocabulary, context_of
from lit_instruct.models.loading import Source, find_source, load_config, load_tokenizer
from lit_instruct.models.lora import LoraOptions, read_head
from lit_instruct.models.quantised import Quantize
from lit_instruct.ppo.figures import case_names, figure_names
from lit_instruct.ppo.objective import ObjectiveOptions
from lit_instruct.ppo.options import PPOOptions, SelectionOptions
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.classifiers import SCHEME

if TYPE_CHECKING:
    from data_modules.prompts import PromptDataModule

VALIDATION = "give --data.validation_path or a validation_share"
LEAST_TEMPERATURE = 0.01
"""Below it vLLM's own is used."""
NAMED_LABELS = 8
"""Most labels that a message names."""


def check_iterations(iterations: int, warmup: int) -> None:
    """Refuses a training without iterations, or one in which the policy never learns.

    Args:
        iterations: their number.
        warmup: how many of them train the value function alone.
    """
    if iterations < 1:
        raise UserError(f"--model.iterations={iterations}: must be at least 1")
    if warmup >= iterations:
        raise UserError(
            f"--model.value.warmup_iterations={warmup}: the policy would never learn in "
            f"--model.iterations={iterations}; lower it"
        )


def check_run(
    options: PPOOptions,
    source: Source,
    reward_sources: Sequence[Source],
    prompter: Prompter,
    data: PromptDataModule,
) -> None:
    """Refuses models that cannot read the prompts with their responses, or cannot score them.

    Args:
        options: of the run.
        source: of the policy.
        reward_sources: of the main reward, several for an ensemble; empty for a function.
        prompter: the prompt format.
        data: the prompts.

    Raises:
        UserError: the message names both sides of the contradiction.
    """
    _check_lengths(source, options.sampling.max_new_tokens, data)
    options.sampling.stop_rule(prompter)
    free, most = options.reward.length_penalty_from, options.sampling.max_new_tokens
    if free >= most:
        raise UserError(
            f"--model.reward.length_penalty_from={free}: no response is longer than --model.sampling.max_new_tokens="
            f"{most}; lower it"
        )
    for reward in reward_sources:
        _check_reward(reward, "--model.reward.model")
    for further in options.reward.further:
        if further.model is not None:
            _check_reward(find_source(further.model), f"--model.reward.further: {further.name!r}, model")


def check_engine(options: PPOOptions, lora: LoraOptions | None, quantize: Quantize) -> None:
    """Refuses a policy that rollout servers cannot get, or samples that they cannot draw as we do.

    Args:
        options: of the run.
        lora: of the policy.
        quantize: of its base.

    Raises:
        UserError: the message names both sides of the contradiction.
    """
    if options.rollouts.engine == "native":
        return
    engine, sampling = f"--model.rollouts.engine={options.rollouts.engine}", options.sampling
    if lora is None:
        raise UserError(
            f"{engine}: servers get the policy as an adapter, and --model.lora=null trains all weights; train an "
            "adapter, or sample with --model.rollouts.engine=native"
        )
    if lora.dora:
        raise UserError(f"{engine}: vLLM reads no DoRA (--model.lora.dora=true); train plain LoRA, or sample natively")
    if quantize != "none":
        raise UserError(
            f"{engine}: vLLM quantises by kernels of its own, so a base in --model.quantize={quantize} would not be "
            "the one that is trained; leave the base as it is, or sample with --model.rollouts.engine=native"
        )
    if sampling.top_k:
        raise UserError(
            f"{engine}: with --model.sampling.top_k={sampling.top_k} the servers' log-probabilities may be any "
            "distance from ours, so a wrong server could not be told from a right one; leave top_k at 0, or limit top_p"
        )
    if sampling.temperature < LEAST_TEMPERATURE:
        raise UserError(
            f"{engine}: vLLM raises --model.sampling.temperature={sampling.temperature} to {LEAST_TEMPERATURE}; give "
            "at least that"
        )


def check_training(options: PPOOptions, compiled_adapters: bool, data: PromptDataModule) -> None:
    """Refuses contradictions that matter only in training.

    Args:
        options: of the run.
        compiled_adapters: whether torch.compile has wrapped a module that trains adapters.
        data: the prompts.

    Raises:
        UserError: the message names both sides of the contradiction.
    """
    check_batch(options.objective, data)
    if compiled_adapters:
        raise UserError(
            "torch.compile: adapters (--model.lora) take turns on one base, and compiled code would not notice; "
            "give the Trainer the module itself, or train all weights with --model.lora=null"
        )
    if options.kl.budget is not None and options.optimizer.ema_decay is not None:
        raise UserError(
            f"--model.kl.budget={options.kl.budget}: with --model.optimizer.ema_decay an average is handed over, whose "
            "KL is not that of the responses; leave one of them out"
        )
    if options.pretraining.ptx_coef and data.pretraining is None:
        raise UserError("--model.pretraining.ptx_coef: needs pretraining text; give --data.pretraining_path")
    if options.selection.labeler is not None and not data.validation_rows:
        raise UserError("--model.selection.labeler: there are no validation prompts that it could score; " + VALIDATION)
    if options.selection.metric is not None:
        names = figure_names(options.reward.names)
        _check_selection(options.selection, [*names, *(["labeler"] if options.selection.labeler else [])], data)


def check_batch(objective: ObjectiveOptions, data: PromptDataModule) -> None:
    """Refuses a batch that processes or minibatches cannot share evenly, or that needs more prompts than there are."""
    size, prompts = data.batch_size, len(data.train_dataset)
    if size % data.world_size:
        raise UserError(
            f"--data.batch_size={size}: not a multiple of the {data.world_size} processes of --trainer.devices (and "
            "--trainer.num_nodes); change one of them"
        )
    minibatches, responses = objective.minibatches, size * objective.responses_per_prompt
    if minibatches > responses:
        times = f" times --model.objective.responses_per_prompt={objective.responses_per_prompt}"
        raise UserError(
            f"--model.objective.minibatches={minibatches}: more than the {size} prompts of --data.batch_size"
            f"{times if responses > size else ''}; lower it"
        )
    if responses % minibatches:
        raise UserError(
            f"--data.batch_size={size}: {responses} responses are not a multiple of --model.objective.minibatches="
            f"{minibatches}, so steps would weight them differently; change one of them"
        )
    if prompts < size:
        raise UserError(
            f"--data.batch_size={size}: {data.path} has only {prompts} prompts to train on, after --data.hygiene and "
            "the length limit; lower it, or add prompts"
        )


def _check_selection(selection: SelectionOptions, figures: Sequence[str], data: PromptDataModule) -> None:
    """Refuses a metric that no validation logs; `figures` are the names of those that it does."""
    option = f"--model.selection.metric={selection.metric}"
    if not data.validation_rows:
        raise UserError(f"{option}: there are no validation prompts; {VALIDATION}")
    cases = case_names(figures, list({row.use_case for row in data.validation_rows if row.use_case})).values()
    known = [f"val/{name}" for name in figures]
    if selection.metric in known or selection.metric in [f"{name}/{case}" for name in known for case in cases]:
        return
    hint = "; it needs --model.selection.labeler" if str(selection.metric).startswith("val/labeler") else ""
    of_case = f", each also with /{' or /'.join(cases)}" if cases else ""
    raise UserError(f"{option}: not measured{hint}; choose one of {', '.join(known)}{of_case}")


def _check_lengths(source: Source, max_new_tokens: int, data: PromptDataModule) -> None:
    """Refuses prompts and responses that are longer than the policy's context."""
    context = context_of(load_config(source))
    if context is None:
        return
    response, base = f"--model.sampling.max_new_tokens={max_new_tokens}", f"the {context} tokens that {source.name}"
    if data.pretraining is not None and data.pretraining_block > context:
        raise UserError(
            f"--data.pretraining_block={data.pretraining_block}: more than {base} (--model.base) reads; lower it"
        )
    if max_new_tokens >= context:
        raise UserError(f"{response}: it leaves no room for a prompt in {base} (--model.base) reads; lower it")
    if data.max_prompt_length + max_new_tokens <= context:
        return
    longest = data.longest
    if longest + max_new_tokens > context:
        advice = f"give --data.max_prompt_length={context - max_new_tokens} with --data.on_long=drop"
        named, advice = (data.path, LEAVE_OUT) if isinstance(data.path, GivenRows) else ("--data.path", advice)
        raise UserError(
            f"{named}: its longest prompt has {longest} tokens, which with {response} is more than {base} "
            f"(--model.base) reads; {advice}, or lower max_new_tokens"
        )


def _check_reward(source: Source, option: str) -> None:
    """Refuses a reward model whose head, outputs or vocabulary do not fit its base."""
    option, config = f"{option}={source.name}", load_config(source)
    text = config.get_text_config()
    if source.adapter is not None:
        width = read_head(source.adapter).shape[1]
        if width != text.hidden_size:
            raise UserError(
                f"{option}: its head has {width} inputs, but its base {source.base} has hidden size "
                f"{text.hidden_size}; it was trained on another base: name that base in its adapter_config.json"
            )
    else:
        kinds = config.architectures or []
        if kinds and not any(kind.endswith("ForSequenceClassification") for kind in kinds):
            raise UserError(
                f"{option}: it is a {kinds[0]} with no trained reward head (`score`); train one with "
                "`lit-instruct rm fit`, or score with --model.reward.function"
            )
        if kinds and config.num_labels != 1:
            labels = ", ".join(map(str, list(config.id2label.values())[:NAMED_LABELS]))
            raise UserError(
                f"{option}: a reward model has one output, this one has {config.num_labels} ({labels}); the "
                f"probability of one of them as the reward: --model.reward.function={SCHEME}{source.name}#LABEL"
            )
    check_vocabulary(option, load_tokenizer(source), source.base, config)
