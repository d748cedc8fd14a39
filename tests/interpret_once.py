"""What the workers that run Triton's interpreter change in it, to be quick; see interpret_worker.py."""

import functools
import types


def patch(interpreter):
    """Let the interpreter put its functions in triton.language's place once for each function that calls them.

    It does so at every call of a jitted function, with a look at every name there is: two thirds of a worker's time.
    What it puts there is always the same, and nothing else runs in this process, so it may stay.
    """
    put = interpreter._patch_lang

    @functools.cache
    def once(function):
        put(function)
        return types.SimpleNamespace(restore=lambda: None)

    if hasattr(interpreter, "_LangPatchScope"):  # else the interpreter is of an older make
        interpreter._patch_lang = once
