//! What the daemon perceives: counters over time, samples, and the host it runs on.

pub mod clock;
pub mod host;
pub mod meter;
pub mod pace;
pub mod poll;
pub mod signals;
pub mod uplink;
pub mod window;
