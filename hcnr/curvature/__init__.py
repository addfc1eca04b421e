"""What is measured on a model: Fisher scores, curvature, gradients, losses, hidden states."""
