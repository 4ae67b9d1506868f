"""Image anomaly detection: python main.py --dataset=cifar10 --normal=0

With the SavedModel that this leaves:

    python main.py --mode=score --saved_model=DIR --images=FOLDER --output=scores.csv

Options may also stand in a file, one a line: --flagfile=flags/presets/cpu.flags; later ones win.
"""

import os
import sys
import tempfile

try:
    # First of all: mcl_tf says which Python and TensorFlow it needs.
    from mcl_tf.errors import Stopped, UsageError, one_line
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(2)

from absl import flags as absl_flags

from flags import MODULES, config_from_flags


def main(arguments: list[str]) -> int:
    """Runs the main job; gives the exit code."""
    try:
        unknown = absl_flags.FLAGS(arguments, known_only=False)[1:]
        if unknown:
            raise UsageError(f"Options begin with --. Received: {' '.join(unknown)}")
        if absl_flags.FLAGS.help:
            print(__doc__, *(absl_flags.FLAGS.module_help(module) for module in MODULES), sep="\n")
            return 0
        config = config_from_flags()
        import_tensorflow_quietly()
        if config.run.mode == "score":
            from mcl_tf.file_scoring import score_files

            score_files(config)
        else:
            from mcl_tf.experiment import run

            run(config)
    except (UsageError, absl_flags.Error) as error:
        print(one_line(error, None), file=sys.stderr)
        return 2
    except Stopped as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"Stopped; {_how_to_go_on()}", file=sys.stderr)
        return 130
    return 0


def _how_to_go_on() -> str:
    """What a user may do after Ctrl-C; a training that had begun has said more by itself."""
    if absl_flags.FLAGS.is_parsed() and absl_flags.FLAGS.mode == "score":
        return "what is scored is in --output: the same command with --resume goes on from there"
    return "the same command goes on from the newest checkpoint, if there is one"


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow, which --help does without, and keeps what it says of absent GPUs off the screen."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            said.seek(0)
            os.write(screen, said.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
