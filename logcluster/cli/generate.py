"""`logcluster generate`: files for other tools, written from answers."""

from __future__ import annotations

import sysconfig
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from logcluster.cli.command import CommandFailed, Settings, command, new_group
from logcluster.cli.output import done

if TYPE_CHECKING:
    from logcluster.cli.generate_overlay import Answers

app = new_group("Files for other tools: Kubernetes manifests.")

ANSWERS_FILE: Final = "answers.json"
QUESTIONS: Final = {
    "namespace": "Namespace",
    "brokers": "Brokers",
    "controllers": "Controllers beside them (0: the first brokers vote)",
    "image": "Image, with a version or digest",
    "storage": "Storage of each broker",
    "storage_class": "Storage class (empty: the cluster's default)",
    "cpu": "Processors requested for a broker",
    "memory": "Memory of a broker",
    "external_domain": "Domain for clients outside of the cluster (empty: none)",
}


@command(
    app,
    "k8s",
    example="logcluster generate k8s production --brokers 5 --storage 500Gi --image example.net/logcluster:0.1.0\n"
    "kubectl apply -k production",
)
def generate_k8s(  # noqa: PLR0913 - each is an option
    settings: Settings,
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where to write; made when missing.")],
    ask: Annotated[bool, typer.Option("--ask", help="Ask for each answer on the terminal.")] = False,
    namespace: Annotated[str | None, typer.Option(help="Of all objects. [default: logcluster]")] = None,
    cluster_id: Annotated[str | None, typer.Option(help="Default: the namespace.")] = None,
    brokers: Annotated[int | None, typer.Option(help="How many; never fewer than before. [default: 3]")] = None,
    controllers: Annotated[
        int | None, typer.Option(help="Nodes that only vote: 0, 1, 3 or 5; 0: the first brokers vote. [default: 0]")
    ] = None,
    image: Annotated[str | None, typer.Option(help="With a version or digest. [default: logcluster:VERSION]")] = None,
    storage: Annotated[str | None, typer.Option(help="Of each broker. [default: 20Gi]")] = None,
    storage_class: Annotated[str | None, typer.Option(help="Default: the cluster's default class.")] = None,
    cpu: Annotated[str | None, typer.Option(help="Requested for a broker. [default: 500m]")] = None,
    memory: Annotated[str | None, typer.Option(help="Of a broker, requested and limit. [default: 2Gi]")] = None,
    external_domain: Annotated[
        str | None, typer.Option(help="A load balancer for each broker, called POD.DOMAIN. Default: none.")
    ] = None,
) -> None:
    """Write a kustomize overlay for Kubernetes. Run again, it keeps the answers that are not given."""
    from logcluster.cli.generate_overlay import Answers, overlay_files

    given: dict[str, Any] = {
        "namespace": namespace,
        "cluster_id": cluster_id,
        "brokers": brokers,
        "controllers": controllers,
        "image": image,
        "storage": storage,
        "storage_class": storage_class,
        "cpu": cpu,
        "memory": memory,
        "external_domain": external_domain,
    }
    kept = directory / ANSWERS_FILE
    before = Answers.from_json(kept.read_text(encoding="utf-8")) if kept.exists() else None
    answers = before or Answers(image=f"logcluster:{_version()}")
    answers = replace(answers, **{name: value for name, value in given.items() if value is not None})
    if ask:
        answers = _asked(answers, {name for name, value in given.items() if value is not None})
    answers = answers.completed()
    answers.check()
    if before is not None:
        answers.check_follows(before)
    files = overlay_files(answers, read_manifests(manifests_directory()))
    write_files(directory, files, keep={"kustomization.yaml"} if before is not None else set())
    done(
        settings,
        {"directory": str(directory), "files": sorted(files), "brokers": answers.brokers, "voters": answers.voters},
        f"wrote {len(files)} files to {directory}   (try: kubectl kustomize {directory})",
    )


def manifests_directory() -> Path:
    """`deploy/k8s` of the checkout, or where the package was installed with it.

    Raises:
        CommandFailed: neither is there.
    """
    candidates = [
        Path(__file__).resolve().parents[2] / "deploy" / "k8s",
        Path(sysconfig.get_path("data")) / "share" / "logcluster" / "k8s",
    ]
    for candidate in candidates:
        if (candidate / "base" / "kustomization.yaml").exists():
            return candidate
    raise CommandFailed(
        "the manifests of Kubernetes are not installed", hint=f"expected in {' or '.join(map(str, candidates))}"
    )


def read_manifests(directory: Path) -> dict[str, str]:
    """Texts of all files below `directory` by relative path."""
    return {
        path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(directory.rglob("*"))
        if path.suffix in {".yaml", ".toml"}
    }


def write_files(directory: Path, files: dict[str, str], *, keep: set[str]) -> None:
    """Write the texts; those of `keep` that exist stay, for what people have added there."""
    for name, text in files.items():
        path = directory / name
        if name in keep and path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _asked(answers: Answers, given: set[str]) -> Answers:
    """Answers from the terminal; what an option gave is not asked for."""
    types = {field.name: type(getattr(answers, field.name)) for field in fields(answers)}
    found = {
        name: typer.prompt(question, default=getattr(answers, name), type=types[name], err=True)
        for name, question in QUESTIONS.items()
        if name not in given
    }
    return replace(answers, **found)


def _version() -> str:
    from importlib.metadata import version

    return version("logcluster")
