"""What is asked: datasets, few-shot samples, questions, option lists, how an answer is matched."""
