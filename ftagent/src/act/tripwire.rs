//! Holds in the kernel what the decisions want held against each class.

use ftagent_common::{
    TrafficClass,
    abi::ceilings,
    rules::{MAX_PER_JIFFY, TOKEN},
    tripwire::{Ceiling, Pool, SPARED_PORTS, flags},
};

use super::enforcer::Jiffies;
use crate::{
    bpf::tripwire::KernelTripwire,
    decide::tripwire::{self, Bucket},
};

/// What is held ends by itself after this time without the daemon, milliseconds.
const TTL_MS: u64 = 30_000;
/// Most that a bucket holds, so that its debts do not overflow: see `DEBT_SHIFT`.
const MAX_BURST: f64 = (1u64 << 56) as f64;

/// The tripwire's driver.
#[derive(Debug)]
pub struct TripwireDriver {
    kernel: KernelTripwire,
    set: Vec<Ceiling>,
    /// Ports to which new connections have a pool of their own.
    ports: [u16; SPARED_PORTS],
}

impl TripwireDriver {
    /// Takes the tripwire over. What was held goes on until the first [`Self::apply`].
    pub fn new(kernel: KernelTripwire) -> Self {
        Self { kernel, set: vec![Ceiling::default(); TrafficClass::COUNT], ports: [0; SPARED_PORTS] }
    }

    /// Says by which ports operators come in: new connections to them have a pool of their own. It
    /// holds from the next [`Self::apply`] on.
    pub fn set_ports(&mut self, ports: impl IntoIterator<Item = u16>) {
        self.ports = [0; SPARED_PORTS];
        self.ports.iter_mut().zip(ports).for_each(|(place, port)| *place = port);
    }

    /// Holds these, by class number, in place of what was held.
    pub fn apply(&mut self, wanted: &[tripwire::Ceiling], jiffies: Jiffies) {
        let mut switches = 0;
        let classes = TrafficClass::ALL.into_iter().zip(wanted);
        for ((class, wanted), set) in classes.zip(&mut self.set) {
            let mut next = ceiling(wanted, jiffies.hz);
            next.ports = if class == TrafficClass::TcpSyn { self.ports } else { tripwire::spared_ports(class) };
            if tripwire::spares_bfd(class) {
                next.flags |= flags::SPARE_BFD;
            }
            if next.flags & flags::POLICE != 0 {
                switches |= if class.is_no_business() { ceilings::NO_BUSINESS } else { ceilings::OTHERS };
            }
            let expires = jiffies.after(TTL_MS);
            if *set == next {
                self.kernel.renew(class.index(), expires);
            } else {
                self.kernel.set(class.index(), &Ceiling { expires, ..next });
                *set = next;
            }
        }
        self.kernel.switch(switches);
    }
}

/// Returns what the kernel is told, without what is its own.
fn ceiling(wanted: &tripwire::Ceiling, hz: u64) -> Ceiling {
    let mut ceiling = Ceiling::default();
    if let Some(bucket) = wanted.wake_pps {
        ceiling.flags |= flags::WAKE_PACKETS;
        ceiling.packets = pool(bucket, 1.0, hz);
    }
    if let Some(bucket) = wanted.wake_bps {
        ceiling.flags |= flags::WAKE_BYTES;
        ceiling.bytes = pool(bucket, 1.0 / 8.0, hz);
    }
    if let Some(police) = wanted.police {
        ceiling.flags |= flags::POLICE | if police.spares_open { flags::SPARE_OPEN } else { 0 };
        ceiling.police = pool(Bucket::of_rate(police.pps), 1.0, hz);
        ceiling.spared = pool(Bucket::of_rate(police.spared_pps), 1.0, hz);
    }
    ceiling
}

/// `unit`: packets or bytes in one of what the rate is in.
fn pool(bucket: Bucket, unit: f64, hz: u64) -> Pool {
    let tokens = |value: f64| value * unit * TOKEN as f64;
    let per_jiffy = (tokens(bucket.rate) / hz.max(1) as f64).round().clamp(0.0, MAX_PER_JIFFY as f64) as u64;
    // No tokens of a whole jiffy are lost, and a packet fits.
    let burst = tokens(bucket.depth).clamp(0.0, MAX_BURST) as u64;
    Pool { spent: 0, per_jiffy, burst: burst.max(2 * per_jiffy).max(TOKEN) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tripwire::Police;

    #[test]
    fn rates_become_tokens() {
        let cases = [(100.0, 1000), (200.0, 250), (48_210.0, 250), (1e12, 100), (0.4, 1000)];
        for (rate, hz) in cases {
            let police = Some(Police { pps: rate, spared_pps: 100.0, spares_open: false });
            let is = ceiling(&tripwire::Ceiling { police, ..tripwire::Ceiling::default() }, hz);
            let per_second = is.police.per_jiffy as f64 * hz as f64 / TOKEN as f64;
            assert!(is.police.per_jiffy == MAX_PER_JIFFY || (per_second / rate - 1.0).abs() < 0.01, "{rate}: {is:?}");
            assert!(is.police.burst >= TOKEN && is.police.burst.checked_shl(6).is_some_and(|debt| debt >> 6 != 0));
            assert_eq!(is.flags, flags::POLICE);
        }
    }

    #[test]
    fn bits_are_charged_as_bytes() {
        let wake_bps = Some(Bucket { rate: 8e6, depth: 4e6 });
        let is = ceiling(&tripwire::Ceiling { wake_bps, ..tripwire::Ceiling::default() }, 100);
        assert_eq!(
            (is.flags, is.bytes.per_jiffy / TOKEN, is.bytes.burst / TOKEN),
            (flags::WAKE_BYTES, 10_000, 500_000)
        );
    }
}
