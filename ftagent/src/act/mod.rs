//! What the daemon does to the kernel, one driver per plane.

pub mod enforcer;
pub mod guard;
pub mod operator;
pub mod store;
pub mod tripwire;
