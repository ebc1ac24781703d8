//! Synthetic checkpoints.
