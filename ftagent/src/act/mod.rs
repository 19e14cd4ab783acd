//! What the daemon does to the kernel, one driver per plane.

pub mod store;
