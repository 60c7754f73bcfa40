"""How the pocket models are made: tokenizer, training text, optimiser, export, evaluation."""
