"""The command line: thin. Each command parses, calls one function, and prints where the result is.

Anything a user can put right ends in one line on stderr and exit code 2; a bug keeps its traceback.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from threedgen.commands.options import (
    add_backend,
    add_run_options,
    backend,
    print_results,
    progress_bar,
    recipe_of,
    require_free,
    whole,
)
from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

PROGRAM = "threedgen"
EMBEDDED_HINT = (
    "No --prior given: using the embedded prior, a small model that ships with threedgen and knows simple "
    "coloured objects only: {classes}, in {colors}, and one on another ('a red cube on a blue cylinder'). "
    "For anything else name a real text-to-image model, for example --prior FOLDER (Stable Diffusion 1.x/2.x "
    "or DeepFloyd IF as diffusers saves it) or --prior OWNER/NAME from the Hugging Face hub."
)


def _text_to_3d(argv: Sequence[str]) -> None:
    """make a 3D asset from a prompt"""
    parser = Parser(
        prog=f"{PROGRAM} text-to-3d",
        description="Make a 3D asset from a prompt: asset.glb, asset.ply, turntable.mp4, report.json in --out.",
        epilog="key=value changes a setting of the recipe, such as cameras.batch=8 or guidance.0.scale=5; "
        "`threedgen recipes` lists the recipes.",
    )
    parser.add_argument("prompt", metavar="PROMPT", help='what to make, for example "a red cube"')
    parser.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipe's settings")
    parser.add_argument("--recipe", default="text-to-3d", metavar="NAME|FILE", help="default: text-to-3d")
    parser.add_argument("--prior", metavar="embedded|FOLDER|HUB_ID", help="the frozen model that guides")
    add_run_options(parser, "runs/<prompt>")
    arguments = parser.parse_intermixed_args(list(argv))
    if not arguments.prompt.strip():
        raise UserError('the prompt is empty: say what to make, for example "a red cube"')

    require_free(arguments)
    from threedgen.recipes.recipe import load_recipe

    recipe = load_recipe(
        arguments.recipe,
        [*backend(arguments), *arguments.settings],
        prior=arguments.prior,
        prompt=arguments.prompt,
        seed=arguments.seed,
        steps=arguments.steps,
        device=arguments.device,
    )
    from threedgen.pipelines.image_to_3d import require_no_picture

    require_no_picture(recipe, arguments.recipe)
    if arguments.prior is None:
        _say_what_embedded_is_for(recipe)

    from threedgen.jobs.run import start
    from threedgen.jobs.run_directory import choose_path

    with progress_bar() as progress:
        run = start(recipe, choose_path(arguments.out, recipe.prompt), [progress])
    print_results(run)


def _text_to_4d(argv: Sequence[str]) -> None:
    """make a 3D asset that moves from a prompt"""
    parser = Parser(
        prog=f"{PROGRAM} text-to-4d",
        description="Make a moving 3D asset from a prompt: anim.glb and anim.mp4 beside the files of text-to-3d.",
        epilog="key=value changes a setting of the recipe, such as stages.1.guidance.0.scale=5.",
    )
    parser.add_argument("prompt", metavar="PROMPT", help='what moves how, for example "a blue cube bouncing"')
    parser.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipe's settings")
    parser.add_argument("--recipe", default="text-to-4d", metavar="NAME|FILE", help="default: text-to-4d")
    parser.add_argument(
        "--asset", metavar="RUN|FILE", help="what moves: a finished run, a .ply with Gaussians, a mesh"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="of the motion; default: 2")
    parser.add_argument(
        "--fps", type=float, metavar="F", help="frames a second that are written; default: 24"
    )
    parser.add_argument("--prior", metavar="embedded|FOLDER|HUB_ID", help="that says what it is")
    parser.add_argument("--video-prior", metavar="embedded|FOLDER", help="that says how it moves")
    parser.add_argument(
        "--video", metavar="FILM", help="how it moves: an mp4, gif, webp or a folder of pictures"
    )
    parser.add_argument(
        "--video-view", metavar="AZ[,EL[,DIST]]", help="where that was taken from, degrees; default: 0,0,4.9"
    )
    add_run_options(parser, "runs/<prompt>")
    arguments = parser.parse_intermixed_args(list(argv))
    if not arguments.prompt.strip():
        raise UserError('the prompt is empty: say what moves how, for example "a blue cube bouncing"')

    require_free(arguments)
    from threedgen.jobs.run_directory import choose_path
    from threedgen.pipelines.film import film_and_view, start_with
    from threedgen.pipelines.text_to_4d import recipe_for

    film, view = film_and_view(arguments.video, arguments.video_view)
    if film is not None:
        print(film.about, file=sys.stderr)
    path = choose_path(arguments.out, arguments.prompt)
    recipe = recipe_for(
        arguments.recipe,
        arguments.prompt,
        [*backend(arguments), *arguments.settings],
        asset=arguments.asset,
        seconds=arguments.seconds,
        fps=arguments.fps,
        prior=arguments.prior,
        video_prior=arguments.video_prior,
        film=film,
        view=view,
        base=path,
        seed=arguments.seed,
        steps=arguments.steps,
        device=arguments.device,
    )
    with progress_bar() as progress:
        run = start_with(film, recipe, path, [progress])
    print_results(run)


def _fit(argv: Sequence[str]) -> None:
    """make a 3D asset from posed pictures, or from a mesh seen from all around"""
    parser = Parser(
        prog=f"{PROGRAM} fit",
        description="Fit an asset to a folder of posed pictures (transforms.json or SRN) or to a mesh file (.glb, "
        ".obj, .ply, .stl, .off); the files are those of text-to-3d.",
        epilog="key=value changes a setting of the recipe, such as representation.count=8000.",
    )
    parser.add_argument("source", metavar="DATASET|MESH", help="a folder, a transforms .json or a mesh file")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipe's settings")
    parser.add_argument("--representation", metavar="NAME", help="gaussians (default), triplane, mesh, ...")
    parser.add_argument("--recipe", default="fit", metavar="NAME|FILE", help="default: fit")
    parser.add_argument("--resolution", type=whole("--resolution"), metavar="R", help="pixels; default: 128")
    parser.add_argument("--views", type=whole("--views"), metavar="N", help="of a mesh; default: 24")
    parser.add_argument("--light", type=float, metavar="0..1", help="on a mesh; default: 0, plain ones 0.6")
    parser.add_argument("--texture", metavar="FILE", help="for a mesh whose file names none")
    parser.add_argument(
        "--up", choices=("y", "z"), help="of a data set's world; default: what its cameras say"
    )
    add_run_options(parser, "runs/<name>")
    arguments = parser.parse_intermixed_args(list(argv))

    require_free(arguments)
    from threedgen.pipelines.fit import start_fit, target_of

    target = target_of(
        arguments.source,
        views=arguments.views,
        resolution=arguments.resolution,
        light=arguments.light,
        texture=arguments.texture,
        up=arguments.up,
    )
    print(target.about, file=sys.stderr)
    with progress_bar() as progress:
        run = start_fit(
            target,
            Path(arguments.source).absolute().stem,
            arguments.out,
            [progress],
            representation=arguments.representation,
            **recipe_of(arguments),
        )
    print_results(run)


def _image_to_3d(argv: Sequence[str]) -> None:
    """make a 3D asset from one picture, or several"""
    parser = Parser(
        prog=f"{PROGRAM} image-to-3d",
        description="Make a 3D asset from one picture of an object, or several; the files are those of text-to-3d, "
        "and the cut-outs in reference/.",
        epilog="key=value changes a setting of the recipe, such as cameras.batch=2.",
    )
    parser.add_argument("picture", metavar="PICTURE", help="PNG, JPEG or WebP; transparent or opaque")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipe's settings")
    parser.add_argument("--mask", metavar="M.png", help="white where the object is; default: told by itself")
    parser.add_argument("--depth", metavar="D.png", help="grey, nearer is brighter; of the picture's size")
    parser.add_argument("--elevation", type=float, metavar="DEG", help="the picture's; positive looks down")
    parser.add_argument(
        "--views", action="append", metavar="FILE@AZIMUTH[,ELEVATION]", help="another picture; repeatable"
    )
    parser.add_argument("--recipe", default="zero123", metavar="NAME|FILE", help="default: zero123")
    parser.add_argument(
        "--prior",
        metavar="FOLDER|HUB_ID",
        help="a Zero-1-to-3 or Stable-Zero123; default: the small one that ships",
    )
    parser.add_argument(
        "--text-prior", metavar="FOLDER|HUB_ID", help="of recipes that have one too (magic123)"
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="what a text prior is told; default: the picture's name"
    )
    add_run_options(parser, "runs/<name>")
    arguments = parser.parse_intermixed_args(list(argv))

    require_free(arguments)
    from threedgen.datasets.cut_outs import cut_out_of
    from threedgen.pipelines.image_to_3d import start_image_to_3d, views_of

    if arguments.elevation is not None:
        arguments.settings.insert(0, f"cameras.reference.elevation={arguments.elevation}")
    cut_out = cut_out_of(arguments.picture, arguments.mask, arguments.depth)
    views, arguments.settings = views_of(arguments.views or [], arguments.settings)
    for seen in (cut_out, *(view.cut_out for view in views)):
        print(seen.about, file=sys.stderr)
    with progress_bar() as progress:
        run = start_image_to_3d(
            cut_out,
            Path(arguments.picture).absolute().stem,
            arguments.out,
            [progress],
            views,
            prior=arguments.prior,
            text_prior=arguments.text_prior,
            prompt=arguments.prompt,
            **recipe_of(arguments),
        )
    print_results(run)


def _resume(argv: Sequence[str]) -> None:
    """go on with a run that was stopped"""
    parser = Parser(prog=f"{PROGRAM} resume", description="Go on with a run from its last checkpoint.")
    parser.add_argument("run", metavar="RUN", help="the run's directory")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    add_backend(parser)
    arguments = parser.parse_args(list(argv))

    from threedgen.jobs.run_directory import RunDirectory

    run = RunDirectory.open(arguments.run)
    if run.finished:
        print(f"{run.path} is finished: nothing to do")
        return
    from threedgen.jobs.run import resume

    with progress_bar() as progress:
        warnings = resume(run, [progress], arguments.device, backend(arguments))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print_results(run)


def _export(argv: Sequence[str]) -> None:
    """write a run's asset as .glb, .ply or .obj, its motion as .glb, .mp4, .gif, .webp, .usdz or .html"""
    parser = Parser(prog=f"{PROGRAM} export", description="Write a run's asset to a file.")
    hint = "export settings, such as mesh.faces=5000"
    _write_from_run(parser, argv, "export_run", hint, "FILE.{glb,ply,obj,mp4,gif,webp,usdz,html}|DIR/*.ply")


def _render(argv: Sequence[str]) -> None:
    """render a run as a turntable .mp4, .gif or .webp, or as pictures into a folder"""
    parser = Parser(prog=f"{PROGRAM} render", description="Render a run on a turntable.")
    add_backend(parser)
    _write_from_run(
        parser, argv, "render_run", "turntable settings, such as frames=90", "FILE.{mp4,gif,webp}|DIR"
    )


def _write_from_run(parser: Parser, argv: Sequence[str], action: str, hint: str, target: str) -> None:
    """RUN --to FILE [key=value ...]: opens the run and calls threedgen.jobs.finish.<action> on it."""
    parser.add_argument("run", metavar="RUN", help="the run's directory")
    parser.add_argument("settings", metavar="key=value", nargs="*", help=hint)
    parser.add_argument("--to", required=True, metavar=target)
    arguments = parser.parse_intermixed_args(list(argv))

    from threedgen.jobs.run_directory import RunDirectory

    run = RunDirectory.open(arguments.run)
    from threedgen.jobs import finish

    more = {"backend": arguments.backend or "auto"} if hasattr(arguments, "backend") else {}
    getattr(finish, action)(run, Path(arguments.to), arguments.settings, **more)
    print(arguments.to)


def _recipes(argv: Sequence[str]) -> None:
    """list the recipes"""
    Parser(prog=f"{PROGRAM} recipes", description="List the built-in recipes.").parse_args(list(argv))
    from threedgen.recipes.layers import BUILTIN_FOLDER, recipe_cards
    from threedgen.ssdnerf.recipes import FOLDER

    for folder, command in ((BUILTIN_FOLDER, ""), (FOLDER, "train ssdnerf")):
        if command:
            print(f"\nof {PROGRAM} {command} DATASET --recipe NAME:")
        cards = recipe_cards(folder)
        width = max(20, *(len(card.name) for card in cards))
        for card in cards:
            print(f"{card.name:{width}} {card.description}")
            for title in ("paper", "needs", "memory"):
                if getattr(card, title):
                    print(f"{'':{width}}   {title}: {getattr(card, title)}")


def _doctor(argv: Sequence[str]) -> None:
    """say what works on this machine, what does not, and why"""
    Parser(
        prog=f"{PROGRAM} doctor", description="Check this machine. Exit code 1: there are problems."
    ).parse_args(list(argv))
    from threedgen.commands.doctor import examine

    marks = {True: "ok", None: "-", False: "PROBLEM"}
    problems = 0
    for finding in examine():
        problems += finding.ok is False
        print(f"{marks[finding.ok]:8} {finding.name:22} {finding.text}", flush=True)
    print("everything needed is there" if problems == 0 else f"{problems} problem(s), see above")
    if problems:
        sys.exit(1)


def _eval(argv: Sequence[str]) -> None:
    """measure a run, pictures or a model: PSNR, SSIM, LPIPS, FID, KID, consistency"""
    from threedgen.commands.evaluate import evaluate

    evaluate(argv)


TRAININGS = {
    "prior": "threedgen.commands.train_prior:train_prior",
    "nerfdiff": "threedgen.commands.train_nerfdiff:train_nerfdiff",
    "ssdnerf": "threedgen.commands.train_ssdnerf:train_ssdnerf",
    "one-step": "threedgen.commands.train_ssdnerf:train_one_step",
}


def _train(argv: Sequence[str]) -> None:
    """train a prior like the embedded ones, a NerfDiff or an SSDNeRF (train prior --help, ...)"""
    if not argv or argv[0] in ("-h", "--help"):
        lines = [
            f"{PROGRAM} train {kind} [options]   (options: {PROGRAM} train {kind} --help)"
            for kind in TRAININGS
        ]
        print("usage: " + "\n       ".join(lines))
        return
    if argv[0] not in TRAININGS:
        raise UserError(f"unknown training '{argv[0]}': use {PROGRAM} train {' or '.join(TRAININGS)}")
    from threedgen.core.plugins import load

    load(TRAININGS[argv[0]])(list(argv[1:]))


def _compose(argv: Sequence[str]) -> None:
    """put several assets that move into one scene, as a file says"""
    from threedgen.commands.compose import compose

    compose(argv)


def _sample(argv: Sequence[str]) -> None:
    """draw 3D assets from a trained SSDNeRF"""
    from threedgen.commands.train_ssdnerf import sample

    sample(list(argv))


def _reconstruct(argv: Sequence[str]) -> None:
    """find the 3D asset that views show, with a trained SSDNeRF"""
    from threedgen.commands.train_ssdnerf import reconstruct

    reconstruct(list(argv))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "text-to-3d": _text_to_3d,
    "text-to-4d": _text_to_4d,
    "compose": _compose,
    "image-to-3d": _image_to_3d,
    "fit": _fit,
    "resume": _resume,
    "export": _export,
    "render": _render,
    "recipes": _recipes,
    "eval": _eval,
    "doctor": _doctor,
    "train": _train,
    "sample": _sample,
    "reconstruct": _reconstruct,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 for a doctor with problems, 2 for bad input, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_help())
            return 0
        if arguments[0] in ("-V", "--version"):
            from threedgen import __version__

            print(f"{PROGRAM} {__version__}")
            return 0
        if arguments[0] not in COMMANDS:
            from threedgen.core.plugins import did_you_mean

            near = did_you_mean(arguments[0], list(COMMANDS)) or ";"
            raise UserError(f"unknown command '{arguments[0]}'{near} commands: {', '.join(COMMANDS)}")
        with _one_line_warnings():
            COMMANDS[arguments[0]](arguments[1:])
    except UserError as error:
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        advice = f"; `{PROGRAM} resume {stop.args[0]}` goes on from the last checkpoint" if stop.args else ""
        print(f"{PROGRAM}: interrupted{advice}", file=sys.stderr)
        return 130
    except SystemExit as request:  # argparse after --help, doctor
        return request.code if isinstance(request.code, int) else 1
    return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND ...   (options: {PROGRAM} COMMAND --help)",
            "",
            "Text to 3D by score distillation, and pictures to 3D, on a laptop.",
            "",
            *lines,
            "",
            f'Start with: {PROGRAM} text-to-3d "a red cube"',
        ]
    )


def _say_what_embedded_is_for(recipe: Any) -> None:
    guides = [guide for part in recipe.parts for guide in part.resolved["guidance"]]
    if any(
        guide.get("prior", {}).get("name") == "embedded" and not guide["prior"]["path"] for guide in guides
    ):
        from threedgen.datasets.shapes import CLASSES, COLORS

        print(EMBEDDED_HINT.format(classes=", ".join(CLASSES), colors=", ".join(COLORS)), file=sys.stderr)


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Warnings meant for users on one line, without the source line that Python appends."""
    import warnings

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield
