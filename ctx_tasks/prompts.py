"""Words that tasks put into a prompt, and what they tell the model class beside its characters.

The harness hands a model nothing but strings, so such a note is the string's type: any other model
class sees plain text.
"""

# Begins the answer of the reading tasks whose name ends in `_prefix`: it fits every question of
# SQuAD, QuAC and DROP. Chosen by the share of answers that it leads to, see
# task_configs/squad/README.md.
ANSWER_PREFIX = 'The answer is "'


class WithoutIndicator(str):
    """User text, or a whole prompt without chat template, that `hf-ctx` gives no indicator."""
