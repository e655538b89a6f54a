"""What a task tells the model class about a prompt, beside its characters.

The harness hands a model nothing but strings, so the note is the string's type: any other model
class sees plain text.
"""


class WithoutIndicator(str):
    """User text, or a whole prompt without chat template, that `hf-ctx` gives no indicator."""
