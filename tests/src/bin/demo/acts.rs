//! The acts: each is another kind of flood, and another way to deal with it.

use std::time::Duration;

use ftagent_tests::{
    customers::WEB_PORT,
    traffic::{Addresses, Flood, L4, Values, Vary},
};

use crate::attack::Pulses;

/// A kind of flood.
pub struct Act {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, in words.
    pub about: &'static str,
    /// Of [`vectors::VECTORS`](ftagent_tests::traffic::vectors::VECTORS).
    pub vector: &'static str,
    /// What is changed of the vector's flood.
    pub change: fn(Flood) -> Flood,
    /// Whether it comes in pulses.
    pub pulses: Option<Pulses>,
    /// What has to deal with it; other things may help.
    pub remedy: Remedy,
}

/// What deals with a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A rule of the signature that its packets share.
    Rule,
    /// The TCP guard.
    Guard,
    /// The tripwire: the kernel drops by itself what is too much.
    Tripwire,
}

/// All of them.
pub const ACTS: &[Act] = &[
    Act {
        name: "amplification",
        about: "Time servers all over the world send this host answers that it never asked for.",
        vector: "ntp_amplification",
        change: |flood| flood,
        pulses: None,
        remedy: Remedy::Rule,
    },
    Act {
        name: "spoofed_syn",
        about: "SYNs to the customers' port, from addresses that are made up and look like customers.",
        vector: "syn_flood",
        change: from_anywhere,
        pulses: None,
        remedy: Remedy::Guard,
    },
    Act {
        name: "pulses",
        about: "Caches send big answers that nobody asked for, in pulses shorter than people can react.",
        vector: "memcached_amplification",
        change: |flood| flood,
        pulses: Some(Pulses { on: Duration::from_millis(400), off: Duration::from_secs(4), count: 4 }),
        remedy: Remedy::Tripwire,
    },
];

/// To the customers' port, from any address that a host may have (others never get past the first router)
/// and any port that a customer's host gives out.
fn from_anywhere(mut flood: Flood) -> Flood {
    if let L4::Tcp { dport, .. } = &mut flood.template.l4 {
        *dport = WEB_PORT;
    }
    let vary = Vary { src: Addresses::Unicast, sport: Values::Between(32_768, 60_999), ..flood.vary };
    Flood { vary, ..flood }
}
