//! The daemon's surfaces: the control socket, metrics and health.

pub mod alert;
pub mod control;
pub mod explain;
pub mod ladder;
pub mod metrics;
pub mod protocol;
pub mod request;
