"""Environments of their own: `nox -s addons` tests the other TensorFlow stack, `nox -s package` the wheel."""

import pathlib
import sys

import nox

nox.options.default_venv_backend = "venv"
ADDONS_PYTHON = ["3.11", "3.10"]  # what TensorFlow 2.15 has wheels for, and this project supports
HERE = pathlib.Path(__file__).parent


def _python_for_addons() -> str:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    return running if running in ADDONS_PYTHON else ADDONS_PYTHON[0]


@nox.session(python=_python_for_addons())
def addons(session: nox.Session) -> None:
    """The whole suite on TensorFlow 2.15 and TensorFlow Addons; then each stack scores the other's model."""
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
    """The Beam transform; Apache Beam holds some packages back, so it has an environment of its own."""
    session.install("--editable", ".[beam,test]")
    session.run("pytest", "tests/test_beam.py", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and sdist are built; the wheel scores a picture beside a TensorFlow brought along."""
    session.install("build")
    dist = pathlib.Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--outdir", str(dist), str(HERE))
    (wheel,), (_,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    session.run("python", str(HERE / "tests" / "wheel_contents.py"), str(wheel))
    # As BUILD.md says for those who have a TensorFlow already: theirs, our other requirements, then us alone.
    session.install("tensorflow-cpu>=2.21,<2.22", "--requirement", str(HERE / "requirements" / "base.txt"))
    session.install("--no-deps", str(wheel))
    session.chdir(str(dist))
    session.run("python", str(HERE / "tests" / "score_a_picture.py"))
