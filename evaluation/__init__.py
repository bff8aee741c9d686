"""How well nano answers: held-out questions, a judge from outside the product, tables with intervals."""
