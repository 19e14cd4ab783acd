//! Whether a packet matches a flow specification, from the text of RFC 8955, 4.2.2, and RFC 8956, 3.
//!
//! Written without a look at how [`FlowMatch`](crate::rule::FlowMatch) is matched: the one is the other's
//! measure.

use std::net::IpAddr;

use ftagent_common::rules::{fragment as bits, has};
use ipnet::IpNet;

use super::{BitField, Bitmask, Component, Field, FlowSpec, Numeric, Side};
use crate::rule::{Family, Subject};

impl FlowSpec {
    /// Returns whether a packet matches: "a given packet is said to match a Flow Specification if it matches the
    /// intersection (AND) of all the components present". A flow label is none of what a subject has: it
    /// matches no packet.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let Some((source, destination)) = subject.ends else { return false };
        if subject.key.has & has::IP == 0 || source.is_ipv4() != (self.family == Family::Ip4) {
            return false;
        }
        self.components.iter().all(|component| match component {
            Component::Prefix { side, net, offset } => {
                within(if *side == Side::Destination { destination } else { source }, net, *offset)
            }
            Component::Numbers(field, tests) => self.numbers(*field, tests, subject),
            Component::Bits(field, tests) => bit_field(*field, tests, subject),
        })
    }

    fn numbers(&self, field: Field, tests: &[Numeric], subject: &Subject<'_>) -> bool {
        let key = &subject.key;
        let holds = |data: u64| numeric(tests, data);
        // "The port component, if present, never matches packets when the packet's IP protocol value is not 6
        // (TCP) or 17 (UDP), if the packet is fragmented and this is not the first fragment, or if the system is
        // unable to locate the transport header."
        let whole = key.fragment & bits::IS == 0;
        let ports = matches!(key.proto, 6 | 17) && whole && key.has & has::PORTS != 0;
        // RFC 8955, 4.2.2.7: "the ICMP type component, if present, never matches packets when the packet's IP
        // protocol value is not 1 (ICMP)"; RFC 8956, 3.5: 58 in IPv6.
        let icmp = key.proto == if self.family == Family::Ip4 { 1 } else { 58 };
        let icmp = icmp && whole && key.has & has::ICMP != 0;
        match field {
            Field::Protocol => holds(key.proto.into()),
            Field::Port => ports && (holds(key.sport.into()) || holds(key.dport.into())),
            Field::DestinationPort => ports && holds(key.dport.into()),
            Field::SourcePort => ports && holds(key.sport.into()),
            Field::IcmpType => icmp && holds(key.icmp_type.into()),
            Field::IcmpCode => icmp && holds(key.icmp_code.into()),
            Field::Length => holds(key.len.into()),
            Field::Dscp => holds(key.dscp.into()),
            Field::FlowLabel => false,
        }
    }
}

fn bit_field(field: BitField, tests: &[Bitmask], subject: &Subject<'_>) -> bool {
    let key = &subject.key;
    match field {
        BitField::TcpFlags => {
            let located = key.proto == 6 && key.fragment & bits::IS == 0 && key.has & has::FLAGS != 0;
            located && bitmask(tests, key.flags.into())
        }
        // The bits of a key are those of the RFC: the same values.
        BitField::Fragment => bitmask(tests, key.fragment.into()),
    }
}

/// RFC 8956, 3.1: the bits from the offset to the length are those of the pattern.
fn within(address: IpAddr, net: &IpNet, offset: u8) -> bool {
    match (address, net) {
        (IpAddr::V4(address), IpNet::V4(net)) => {
            let differs = address.to_bits() ^ net.network().to_bits();
            u32::from(net.prefix_len()) <= differs.leading_zeros()
        }
        (IpAddr::V6(address), IpNet::V6(net)) => {
            let differs = address.to_bits() ^ net.network().to_bits();
            // Bits before the offset are not looked at.
            let looked_at = u128::MAX.checked_shr(offset.into()).unwrap_or(0);
            u32::from(net.prefix_len()) <= (differs & looked_at).leading_zeros()
        }
        _ => false,
    }
}

/// RFC 8955, 4.2.1.1: AND binds tighter than OR.
fn numeric(tests: &[Numeric], data: u64) -> bool {
    let holds = |test: &Numeric| {
        test.less && data < test.value || test.more && data > test.value || test.equal && data == test.value
    };
    groups(tests, |test| test.and, holds)
}

/// RFC 8955, 4.2.1.2.
fn bitmask(tests: &[Bitmask], data: u16) -> bool {
    let holds = |test: &Bitmask| {
        let found = if test.all { data & test.value == test.value } else { data & test.value != 0 };
        found != test.not
    };
    groups(tests, |test| test.and, holds)
}

/// Returns whether all comparisons of any group hold; a group begins where one is not joined to that before.
fn groups<T>(tests: &[T], joined: impl Fn(&T) -> bool, holds: impl Fn(&T) -> bool) -> bool {
    let (mut any, mut group) = (false, None);
    for test in tests {
        group = match group {
            Some(so_far) if joined(test) => Some(so_far && holds(test)),
            before => {
                any |= before == Some(true);
                Some(holds(test))
            }
        };
    }
    any || group == Some(true)
}
