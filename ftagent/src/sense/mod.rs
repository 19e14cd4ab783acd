//! What the daemon perceives: counters over time, samples, and the host it runs on.

pub mod host;
pub mod poll;
pub mod window;
