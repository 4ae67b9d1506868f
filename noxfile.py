"""Separate environments: `nox -s addons` tests the other TensorFlow stack, `nox -s package` tests the wheel."""

import pathlib
import sys

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"  # pip brings it up to date
ADDONS_PYTHON = ["3.11", "3.10"]  # those that TensorFlow 2.15 has wheels for and this project supports
HERE = pathlib.Path(__file__).parent


def _python_for_addons() -> str:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    return running if running in ADDONS_PYTHON else ADDONS_PYTHON[0]


@nox.session(python=_python_for_addons())
def addons(session: nox.Session) -> None:
    """Run the tests on TensorFlow 2.15 with TensorFlow Addons; then let each stack score the model of the other."""
    session.install("--editable", ".[addons,test]")
    session.run("python", "-c", "import tensorflow_addons, keras; assert keras.__version__.startswith('2.15')")
    session.run("pytest", "-n", "2", "--dist", "worksteal", *session.posargs)
    current = str(HERE / ".venv" / "bin" / "python")
    made = pathlib.Path(session.create_tmp())
    for name, there, here in (("from_keras_3", current, "python"), ("from_keras_2", "python", current)):
        (made / name).mkdir(exist_ok=True)
        session.run(there, "-m", "tests.exchange", "make", str(made / name), external=True)
        session.run(here, "-m", "tests.exchange", "check", str(made / name), external=True)


@nox.session
def beam(session: nox.Session) -> None:
    """Test the Beam transform, in a separate environment because Apache Beam needs older versions of some packages."""
    session.install("--editable", ".[beam,test]")
    session.run("pytest", "tests/test_beam.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site of the documents in build/site; a link or a name that leads nowhere is an error."""
    session.install("mkdocs-material>=9.5", "mkdocstrings[python]>=0.27")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def package(session: nox.Session) -> None:
    """Build wheel and sdist; install the wheel beside an existing TensorFlow and score an image."""
    session.install("build")
    dist = pathlib.Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--outdir", str(dist), str(HERE))
    (wheel,), (_,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    session.run("python", str(HERE / "tests" / "wheel_contents.py"), str(wheel))
    # As BUILD.md describes it for an existing TensorFlow: that build, our other requirements, then our package alone.
    session.install("tensorflow-cpu>=2.21,<2.22", "--requirement", str(HERE / "requirements" / "base.txt"))
    session.install("--no-deps", str(wheel))
    session.chdir(str(dist))
    session.run("python", str(HERE / "tests" / "score_an_image.py"))
