//! What ftagent's kernel programs and its daemon share: the layouts of the maps, the traffic
//! classes, the drop reasons, and the parser.
//!
//! Everything here is `no_std`, has no panic path and does no floating point, because the same
//! code is compiled for the BPF target, where a reachable panic makes the verifier refuse the
//! program. Layouts are `#[repr(C)]`, padded by hand and asserted at compile time.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod abi;
pub mod class;
pub mod counters;
pub mod guard;
pub mod lists;
pub mod parse;
pub mod ports;
pub mod reason;
pub mod rules;
pub mod sample;
pub mod tripwire;

pub use class::TrafficClass;
pub use reason::DropReason;
