"""What errors and events say, in the reader's language: the English sentence is the message's id.

The panel, the supervisor and the engine write English with the numbers filled in, and it is stored
so. A template here finds those numbers again: `{n}` and `{m}` stand for numbers, `{sentence}` for
a text that is looked up by itself, any other name for any text. What no template matches is
shown as it was written. A test holds each template against the source that writes it.
"""

from __future__ import annotations

import functools
import re

from panel.ui.i18n import N_, _

MODEL_FOLDER = (
    N_("{path} is not a folder."),
    N_("{path} has a config.json but no *.safetensors file."),
    N_("{path} has no config.json."),
    N_("{path} has no weight_map of file names."),
    N_("{path} names no model_type, so the architecture is unknown."),
    N_("{path} is not valid JSON: {reason}"),
    N_("{path} has its weights only in {file}, a pickle, which can run code."),
    N_("{path} lacks {n} of {m} weight files: {file}"),
    N_("{path} is damaged or cut short ({reason})."),
    N_("{path} is a git-lfs pointer, not the file itself."),
    N_("{path} cannot be read: {reason}."),
    N_("The config of {name} lacks {what}."),
    N_("The weight files of {name} hold {n} parameters; its config.json describes at least {m}."),
    N_("transformers cannot build {name} (model type {what}): {reason}"),
    N_("Give the folder that holds config.json."),
    N_("Convert it: {command}."),
    N_("It holds GGUF; convert it: {command}."),
    N_("It holds a LoRA adapter; merge it into its base model first."),
    N_("Did you mean {path}?"),
    N_("Give a model folder in Hugging Face layout (config.json, *.safetensors, tokenizer)."),
    N_("Take config.json from the model's own page again."),
    N_("Download this file again."),
    N_("Delete this file and download it again."),
    N_("Finish the download of this model."),
    N_("Download the weights too; half a download has only the small files."),
    N_("Get the safetensors version of this model, or convert it where you trust it."),
    N_("Check config.json; see the model's own page."),
    N_("Check config.json, or choose a model whose architecture transformers knows."),
    N_("Files are missing, or belong to another model: download it again."),
    N_("Check the file's owner and permissions, and the disk."),
    N_("Run `git lfs install && git lfs pull` in {path}."),
)
SOURCE = (
    N_("{text} is neither a folder here nor a model id."),
    N_("{hub} cannot be reached, so {model} cannot be read ({reason})."),
    N_("{hub} knows no {model} at revision {revision}."),
    N_("{model} is gated or private at {hub} ({n})."),
    N_("{hub} asks for fewer requests (429)."),
    N_("{hub} answered {n} for {model}."),
    N_("{model} has no safetensors weights."),
    N_("{model} needs {n} GB of disk; {path} has {m} GB free."),
    N_("{model} needs {n} GiB of disk; {path} has {m} GiB free."),
    N_("{model} could not be stored in {path}: {reason}"),
    N_("{file} arrived damaged ({reason})."),
    N_("Give demo, a folder (/models/mine), org/name for Hugging Face or ms:org/name."),
    N_(
        "Check the network, or use a mirror (HF_ENDPOINT), ModelScope (ms:org/name), "
        "a local folder, or the demo model."
    ),
    N_(
        "Try again later, or use a mirror (HF_ENDPOINT), ModelScope (ms:org/name), "
        "a local folder, or the demo model."
    ),
    N_("Check the id and the revision; for a private model set {variable}."),
    N_("Accept its licence on its page, then set {variable} to a token of that account."),
    N_("Wait some minutes, or set {variable}."),
    N_("Choose a version of the model in safetensors; pickle files can run code."),
    N_("Choose a model in Hugging Face layout."),
    N_("Free space, or choose another folder by AUTOGLM_HOME."),
    N_("Free some space, or set AUTOGLM_HOME to a larger disk."),
)
LAUNCH = (
    N_("A context of {n} tokens is more than the {m} that {model} was made for."),
    N_("{model} in {precision} needs {n} GiB; {device} gives it {m} GiB."),
    N_("{sentence} To try all the same: --force."),
    N_("Choose {n} or less."),
    N_("Choose {precision}."),
    N_("Choose a smaller model or a shorter context."),
    N_("Port {n} on {host} is in use by {owner}."),
    N_("Port {n} on {host} is in use."),
    N_("No port from {n} to {m} is free on {host}."),
    N_("Nothing can listen on {host} port {n}: {reason}."),
    N_("Choose another port, or none to take the next free one."),
    N_("Choose an address of this machine and a port above 1023."),
    N_("Stop a deployment, or choose a port."),
    N_("{option} is {value}, which is not {what}."),
    N_("Choose one of: {values}."),
)
ENGINE = (
    N_("{model} needs {n} GiB for its weights in {format}; {m} GiB may be filled on {device}."),
    N_("The KV cache needs {n} GiB; {m} GiB are left after weights and activations."),
    N_("Choose int8 or int4, a smaller model, or a device with more memory."),
    N_("Choose int8 or int4, a smaller --kv-cache-gib, or a device with more memory."),
    N_("{path} lacks {n} tensors of the model, {name} among them."),
    N_("{path} has {n} bytes; its header announces {m}."),
    N_("Download the model again."),
    N_("Download it again."),
    N_("The engine exited with code {n}."),
    N_("The engine was killed by signal {n} ({name}): perhaps the machine ran out of memory."),
    N_("The engine was killed by signal {n} ({name})."),
    N_("The engine ended while no supervisor was watching; its exit code is not known."),
    N_("The engine has not been well for {n} s ({reason})."),
    N_("The engine answered without any token."),
    N_("The engine is {phase}: {reason}"),
    N_("Stage {stage} was not done after {n} s."),
    N_("Preparing the model ended with exit code {n}."),
    N_("See the last lines of the log."),
    N_("See the log for what it was doing; redeploy to try again."),
    N_("It is started again; see the log for what it was doing."),
    N_("See the log lines of `prepare`."),
)
TALK = (
    N_("Nothing listens at {address}."),
    N_("{address} did not answer in time ({reason})."),
    N_("The connection to {address} broke: {reason}."),
    N_("The engine closed the stream before the answer was complete."),
    N_("See `autoglm ls` whether the deployment is running."),
    N_("See the deployment's logs; a busy engine may need a longer timeout."),
    N_("See the deployment's logs for the reason."),
    N_("See the deployment's logs; it may have ended."),
    N_("The API key of {id} cannot be read: {reason}."),
    N_("Redeploy it; a new key is made then."),
    N_("No deployment has the id {id}, and none of that name or model is active."),
    N_("See `autoglm ls`."),
)
HISTORY = (
    N_("Asked to run {name}."),
    N_("Asked to stop {name}."),
    N_("Found the engine running as process {n}; it goes on."),
    N_("The engine is ended: {sentence}"),
    N_("{n} processes did not end when asked; killed."),
    N_("Ended {n} processes that the engine left behind."),
    N_("{n} checks failed in {m} s: {reason}"),
    N_("{sentence} Started again in {n} s."),
    N_("{sentence} Starting again would not help."),
    N_("{sentence} {n} attempts in a row never became ready."),
    N_("{sentence} {n} crashes within {m} minutes."),
)
TEMPLATES = (*HISTORY, *ENGINE, *LAUNCH, *TALK, *MODEL_FOLDER, *SOURCE)
"""Tried in this order: those that hold another sentence come before those that could take it."""

NUMBERS = frozenset("nm")
WORDS = frozenset({"precision", "stage", "phase"})
_HOLE = re.compile(r"\{(\w+)\}")


def in_words(text: str) -> str:
    """The text in the reader's language, or as it is where nobody has translated it."""
    found = parsed(text)
    if found is None:
        return text
    template, values = found
    if "sentence" in values:
        values["sentence"] = in_words(values["sentence"])
    return _(template, **values)


def parsed(text: str) -> tuple[str, dict[str, str]] | None:
    """The template that this text was made from, and what fills its holes."""
    for template in TEMPLATES:
        found = _pattern(template).fullmatch(text)
        if found:
            return template, found.groupdict()
    return None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = _HOLE.split(template)  # literal, name, literal, name, … literal
    return re.compile("".join(map(_piece, range(len(pieces)), pieces)), re.DOTALL)


def _piece(index: int, text: str) -> str:
    if index % 2 == 0:
        return re.escape(text)
    kind = r"-?[\d.,]*\d" if text in NUMBERS else r"\w+" if text in WORDS else ".+?"
    return f"(?P<{text}>{kind})"
