//! `ftagent replay`: captures and scenarios through the real datapath, in virtual time.
//!
//! [`capture`] reads files, [`scenario`] says what to do with them, [`timeline`] merges them into
//! one stream ([`schedule`] has the arithmetic of rates, [`rewrite`] the addresses), [`run()`]
//! drives the datapath through it and [`report`] tells what happened. The same input gives the
//! same report on every machine, `wall_ms` aside.

pub mod capsule;
pub mod capture;
pub mod check;
pub mod frame;
mod gate;
mod mind;
mod naming;
pub mod output;
pub mod report;
pub mod rewrite;
mod rules;
mod run;
pub mod scenario;
pub mod schedule;
mod scribe;
mod sockets;
pub mod timeline;
mod watch;

pub use capture::{CaptureError, CapturedPacket, for_each_packet};
pub use report::{Counts, Report};
pub use run::{Options, ReplayError, apply_config, run, run_watched};
pub use watch::{Answer, Fate, Seen};
