"""The choices of --grade: which turns of a conversation the model is graded on.

This module imports nothing, so that the command line's --help needs no NumPy."""

GRADES = {
    "all": "every assistant turn",
    "last": "the last assistant turn",
    "flags": "the assistant turns that are not flagged out",
    "everything": "everything, the user's turns too (no mask)",
}
