//! Whether an address is that of who sent the packet.

use std::net::{IpAddr, Ipv4Addr};

use super::report::{Spoofing, Verdict};

/// Samples below which nothing is said of forged sources.
const ENOUGH: u64 = 200;

/// The share of all IPv4 addresses that nobody can have on the Internet: what forged sources drawn from all of
/// them show (RFC 6890 and multicast: 14 %).
const UNUSABLE: f64 = 0.14;

/// What is known of one source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace {
    /// Samples in which the kernel holds a connection with it.
    pub connected: u64,
    /// Samples that come from a port of a reflected protocol.
    pub reflected: u64,
    /// That port.
    pub port: u16,
    /// The lowest and highest TTL.
    pub ttl: Option<(u8, u8)>,
    /// First and last seen, milliseconds since 1970.
    pub seen: Option<(i64, i64)>,
}

impl Trace {
    /// Notes a sample.
    pub fn note(&mut self, ttl: u8, unix_ms: i64, connected: bool, reflector: Option<u16>) {
        self.connected += u64::from(connected);
        if let Some(port) = reflector {
            self.reflected += 1;
            self.port = port;
        }
        let (low, high) = self.ttl.unwrap_or((ttl, ttl));
        self.ttl = Some((low.min(ttl), high.max(ttl)));
        let (first, last) = self.seen.unwrap_or((unix_ms, unix_ms));
        self.seen = Some((first.min(unix_ms), last.max(unix_ms)));
    }

    /// Returns whether most of what it sent are answers of a reflected protocol.
    pub fn is_reflector(&self, samples: u64) -> bool {
        samples > 0 && 2 * self.reflected > samples
    }

    /// Returns how sure it is that the address is not forged, and why. `share` is its part of all packets.
    pub fn confidence(&self, samples: u64, share: f64, crowd: &Crowd) -> (f64, String) {
        if self.connected > 0 {
            return (0.95, format!("the host has a connection with it ({} samples)", self.connected));
        }
        if self.is_reflector(samples) {
            return (0.85, format!("it answers from port {}, which a forged request makes a server do", self.port));
        }
        let steady = self.ttl.is_some_and(|(low, high)| low == high);
        let forged = crowd.spoofing().verdict == Verdict::Forged;
        match (samples, steady) {
            (8.., true) if share >= 0.01 => (
                0.5,
                format!(
                    "one TTL in {samples} samples, and {:.1} % of all packets: one sender, or one address that was forged throughout",
                    share * 100.0
                ),
            ),
            (8.., true) if !forged => (0.4, format!("one TTL in {samples} samples")),
            (8.., false) => {
                (0.15, format!("several TTLs in {samples} samples: forged, or several hosts behind one address"))
            }
            _ if forged => (0.02, "one of the addresses that are drawn at random".to_owned()),
            _ => (0.3, format!("{samples} samples say little")),
        }
    }
}

/// What is known of all sources together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crowd {
    /// Samples.
    pub samples: u64,
    /// Different sources.
    pub distinct: f64,
    /// Samples from IPv4 addresses that nobody can have on the Internet, private ones included.
    pub unusable: u64,
    /// Samples in which the kernel holds a connection with the source.
    pub connected: u64,
    /// Samples from a port of a reflected protocol.
    pub reflected: u64,
    /// The share of packets that the ten heaviest sources certainly sent.
    pub of_ten: f64,
}

impl Crowd {
    fn share(&self, samples: u64) -> f64 {
        if self.samples == 0 { 0.0 } else { samples as f64 / self.samples as f64 }
    }

    /// Says whether sources are forged, and why.
    pub fn spoofing(&self) -> Spoofing {
        let told = |verdict, confidence, why: Vec<String>| Spoofing { verdict, confidence, why };
        let per_sample = self.distinct / (self.samples.max(1) as f64);
        let (unusable, connected, reflected) =
            (self.share(self.unusable), self.share(self.connected), self.share(self.reflected));
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        if reflected > 0.5 {
            let why = format!("{} of the samples are answers from ports of reflected protocols", percent(reflected));
            return told(Verdict::Reflected, 0.85, vec![why]);
        }
        if connected > 0.3 {
            let why = format!("the host has a connection with the source of {} of the samples", percent(connected));
            return told(Verdict::Real, 0.9, vec![why]);
        }
        if self.samples < ENOUGH {
            return told(Verdict::Unknown, 0.0, vec![format!("{} samples are too few", self.samples)]);
        }
        if per_sample > 0.5 && connected < 0.01 {
            let mut why =
                vec![format!("{:.0} sources in {} samples, none in a connection", self.distinct, self.samples)];
            // Half to one and a half of what chance gives: drawn from all addresses.
            if (0.5 * UNUSABLE..1.5 * UNUSABLE).contains(&unusable) {
                why.push(format!(
                    "{} of them cannot be on the Internet; of addresses drawn from all it would be 14 %",
                    percent(unusable)
                ));
                return told(Verdict::Forged, 0.97, why);
            }
            why.push("very many real senders would look the same".to_owned());
            return told(Verdict::Forged, 0.6, why);
        }
        if self.of_ten > 0.5 {
            let why = format!("ten sources sent {} of it", percent(self.of_ten.min(1.0)));
            return told(
                Verdict::Unknown,
                0.4,
                vec![why, "real, or the same few addresses forged throughout".to_owned()],
            );
        }
        let why = format!("{:.0} sources in {} samples", self.distinct, self.samples);
        told(Verdict::Unknown, 0.3, vec![why])
    }
}

/// Returns whether nobody can have an address on the Internet (RFC 6890; class D and E).
pub fn is_unusable(address: IpAddr) -> bool {
    let IpAddr::V4(v4) = address else { return false };
    let [a, b, c, _] = v4.octets();
    v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || a == 0
        || a >= 224
        || a == 100 && b & 0xc0 == 64
        || a == 198 && b & 0xfe == 18
        || (a, b, c) == (192, 0, 0)
}

/// The network that a source is counted in.
pub fn prefix(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{}/24", Ipv4Addr::from_bits(v4.to_bits() & 0xffff_ff00)),
        IpAddr::V6(v6) => format!("{}/48", std::net::Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80)),
    }
}
