//! The daemon's surfaces: the control socket, metrics and health.

pub mod control;
pub mod metrics;
pub mod protocol;
