//! What is matched beyond a rule is what its text says is, packet by packet.

use std::collections::BTreeSet;

use ftagent::{
    decide::Packet,
    rule::{
        Family,
        vendor::Widening::{self, Authentication, Extensions, FirstFragments, Malformed, Padding},
    },
};
use ftagent_tests::{
    packet::{Extension, Ipv4, Ipv6, Tcp, Transport, Udp},
    peers::need,
    require_root,
    sandbox::Sandbox,
};

use super::firewalls::{Counted, count_arrivals, install_iptables, install_nft, send, wait_for_arrivals};

/// Rules that differ in what there is to widen. Packets are from port 123, and their payload begins with 17 00.
const RULES: [&str; 10] = [
    "udp",
    "udp sport 123",
    "udp sport 123 frag not",
    "udp frag not,dont",
    "udp payload 0:1700",
    "src 2001:db8::/32 len 40-1500",
    "ip4 tcp flags syn",
    "ip6 proto 6-17",
    "ip6 frag is,first len 40-1500",
    "ip4 proto 17 ttl 64",
];

/// A packet of each kind, of both families where there is one: whole in all else.
fn odd() -> Vec<(Widening, Vec<u8>)> {
    let payload = [0x17, 0, 3, 0x2a, 5, 5, 5, 5];
    let udp = Udp::new(123, 40_000, &payload).build();
    let syn = Tcp { src: 123, ..Tcp::to(80, 2) }.build();
    let fragment = Extension::fragment;
    // What pads a frame to 60 bytes.
    let padded = |mut frame: Vec<u8>| {
        frame.extend(payload);
        frame.resize(frame.len().max(60), 0);
        frame
    };
    let empty: Transport = Udp::new(123, 40_000, &[]).build();
    let further = Ipv6::with([fragment(0, true), Extension::options(60, 16)]);
    let mut all = vec![
        (Padding, padded(Ipv4::new().frame(&empty))),
        (Padding, padded(Ipv6::new().frame(&empty))),
        (Authentication, Ipv6::with([Extension::authentication()]).frame(&udp)),
        (Authentication, Ipv6::with([Extension::authentication(), fragment(800, true)]).frame(&udp)),
        (Extensions, further.frame(&udp)),
    ];
    for inner in [&udp, &syn] {
        all.push((FirstFragments, Ipv4::fragment(0, true).frame(inner)));
        all.push((FirstFragments, Ipv6::with([fragment(0, true)]).frame(inner)));
    }
    let cut = udp.cut(14);
    all.extend([(Malformed, Ipv4::new().frame(&cut)), (Malformed, Ipv6::new().frame(&cut))]);
    all
}

fn install() -> Vec<Counted> {
    let mut all = Vec::new();
    for (number, text) in RULES.iter().enumerate() {
        let matches = text.parse().unwrap();
        all.extend(install_nft(&matches, format!("i{number}"), None));
        all.extend(install_nft(&matches, format!("d{number}"), Some("v0")));
        for (command, short) in [("iptables", "t"), ("ip6tables", "s")] {
            if super::platform(command).concerns(matches.family()) {
                all.extend(install_iptables(&matches, command, format!("{short}{number}")));
            }
        }
    }
    all
}

#[test]
fn what_is_matched_beyond_a_rule_is_said() {
    require_root!();
    if !need("what is matched beyond rules", &["nft", "iptables-restore", "ip6tables-restore", "python3"]) {
        return;
    }
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("v0", "p0").unwrap();
        let all = install();
        count_arrivals();
        let (mut seen, mut kept) = (BTreeSet::new(), 0);
        for (sent, (kind, frame)) in (1..).zip(odd()) {
            let before: Vec<u64> = all.iter().map(|one| (one.read)(sandbox)).collect();
            send(sandbox, &veth, std::iter::once(frame.clone()));
            wait_for_arrivals(sandbox, sent);
            let packet = Packet::decode(0, &frame, frame.len(), None, false);
            let family = if frame[12..14] == [8, 0] { Family::Ip4 } else { Family::Ip6 };
            let fits = |one: &Counted| one.family.is_none_or(|own| own == family);
            for (one, before) in all.iter().zip(before).filter(|(one, _)| fits(one)) {
                let taken = (one.read)(sandbox) > before;
                if one.matches.matches(&packet.subject()) {
                    assert!(taken, "`{}` leaves out {kind:?} {frame:02x?}: {}", one.matches, one.what);
                    continue;
                }
                let (matches, what) = (&one.matches, &one.what);
                assert!(!taken || one.widened.contains(&kind), "`{matches}` takes {kind:?} {frame:02x?}: {what}");
                seen.extend(taken.then_some(kind));
                kept += u32::from(!taken);
            }
        }
        // None is said of everything in vain.
        let said: BTreeSet<Widening> = all.iter().flat_map(|one| one.widened.iter().copied()).collect();
        assert_eq!(seen, said);
        assert!(kept > 20, "{kept}");
    })
    .unwrap();
}
