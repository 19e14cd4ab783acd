//! The daemon's surfaces: the control socket, metrics and health.

pub mod control;
pub mod explain;
pub mod metrics;
pub mod protocol;
