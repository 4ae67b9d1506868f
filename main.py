"""Image anomaly detection: python main.py --dataset=cifar10 --normal=0

Score files with the SavedModel that a run leaves behind:

    python main.py --mode=score --saved_model=DIR --images=FOLDER --output=scores.csv

Options may also stand in a file, one per line: --flagfile=flags/presets/cpu.flags. Later options win.
"""

import logging
import os
import platform
import sys
import tempfile

try:
    # First of all: mcl_tf says which Python and TensorFlow it needs.
    from mcl_tf.errors import TrainingInterrupted, UsageError, one_line
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(2)

from absl import flags as absl_flags

import flags
from mcl_tf.run_record import holds_run, with_run_directory
from mcl_tf.utils.console import ConsoleHandler, captured_messages, open_standard_streams

MEMORY = "/dev/shm"  # Linux's folder for shared memory


def main(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    open_standard_streams()
    try:
        return run(arguments)
    except (UsageError, absl_flags.Error) as error:
        print(one_line(error, None), file=sys.stderr)
        return 2
    except TrainingInterrupted as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"Stopped; {_how_to_resume()}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the pipe has seen enough, e.g. `main.py --help | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run(arguments: list[str]) -> int:
    """Parse the arguments, run what they ask for and return the exit code."""
    unknown = absl_flags.FLAGS(arguments, known_only=False)[1:]
    if unknown:
        raise UsageError(f"Options begin with --. Received: {' '.join(unknown)}")
    if absl_flags.FLAGS.help:
        print(__doc__, *(absl_flags.FLAGS.module_help(module) for module in flags.MODULES), sep="\n")
        sys.stdout.flush()
        return 0
    flags.refuse_other_modes()
    if absl_flags.FLAGS.mode == "evaluate":
        evaluation = flags.evaluation_arguments()
        prepare_process()
        from mcl_tf.reevaluation import evaluate

        evaluate(**evaluation)
    elif absl_flags.FLAGS.mode == "score":
        files_to_score = flags.score_files_arguments()
        prepare_process()
        from mcl_tf.file_scoring import score_files

        score_files(**files_to_score)
    elif absl_flags.FLAGS.mode == "threshold":
        examples = flags.threshold_arguments()
        prepare_process()
        from mcl_tf.file_scoring import choose_threshold

        choose_threshold(**examples)
    elif absl_flags.FLAGS.mode == "drift":
        scores = flags.drift_arguments()
        prepare_process(tensorflow=scores["saved_model"] is not None)
        from mcl_tf.drift_report import report_drift

        report_drift(**scores)
    else:
        config = flags.config_from_flags()
        table = flags.table_options(config)
        if table is None:
            holds_run(with_run_directory(config))  # other options are refused here, before TensorFlow is imported
        prepare_process()
        from mcl_tf import experiment
        from mcl_tf.tables import runner

        experiment.run(config) if table is None else runner.run(config, table)
    return 0


def _how_to_resume() -> str:
    """Say what to do after Ctrl-C; a training in progress has already said more."""
    if absl_flags.FLAGS.is_parsed() and absl_flags.FLAGS.mode == "score":
        return "the scores so far are in --output: the same command with --resume continues from there"
    return "the same command resumes from the newest checkpoint, if there is one"


def prepare_process(tensorflow: bool = True) -> None:
    """Set up the log and import TensorFlow, which --help and, with a file of scores alone, --mode=drift do without."""
    logger = logging.getLogger("mcl_tf")
    logger.handlers[:] = [ConsoleHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if tensorflow:
        import_tensorflow_quietly()
    else:
        find_temporary_folder()


def find_temporary_folder() -> None:
    """Let temporary files lie in memory on a read-only system; TensorFlow and matplotlib need a folder for them.

    Raises:
      UsageError: there is no such folder either.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        if not os.access(MEMORY, os.W_OK):
            raise UsageError(f"TMPDIR must be a writable folder for temporary files. Received: {error}") from None
        os.environ["TMPDIR"] = MEMORY


def import_tensorflow_quietly() -> None:
    """Import TensorFlow with its fast kernels, and keep its messages about absent GPUs off the screen."""
    if platform.machine() in ("x86_64", "AMD64"):
        # TensorFlow enables oneDNN by itself on the newest processors only. With AVX2 it halves the time of a step.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    find_temporary_folder()
    with captured_messages():
        import tensorflow as tf

        tf.config.list_physical_devices()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
