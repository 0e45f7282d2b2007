"""The training loop, the patches it draws from, and the phases of each paper's training."""
