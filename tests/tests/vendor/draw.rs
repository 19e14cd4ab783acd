//! Rules at random, from so few values that they often meet.

use ftagent::rule::{Action, FlowMatch};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Words of which a rule takes one each, or none.
const CHOICES: [&[&str]; 12] = [
    &["src 192.0.2.1", "src 192.0.2.0/24", "src 198.18.0.0/15", "src 2001:db8::1", "src 2001:db8::/32"],
    &["tcp", "udp", "icmp", "icmp6", "proto tcp,udp", "gre", "proto 2-50", "proto 6-17,47", "proto 0,17", "udp"],
    &["port 53", "port 53,123,40000-50000"],
    &["sport 123", "sport 53,123,1900,11211", "sport 0-65535", "sport 1024-65535", "sport 1,3,5,7,9,11,13,15,17,19-30"],
    &["dport 80", "dport 53,80,443", "dport 0-1023"],
    &["icmp-type 8", "icmp-type 0,3,8-11", "icmp-type 128,255"],
    &["icmp-code 0", "icmp-code 0-3"],
    &["flags syn/syn+ack", "flags syn/syn+ack,rst", "flags none/all", "flags ack/ack+cwr+ece", "flags cwr"],
    &["len 0-60", "len 28,40-100", "len 61-65535", "len 400-1500", "len 0-65535"],
    &["dscp 0", "dscp 10,46-63", "dscp 46"],
    &["frag not", "frag is", "frag first", "frag last", "frag is,first", "frag dont", "frag dont,last"],
    &["ttl 64", "ttl 1-63", "ttl 3,64-255"],
];

/// Payloads, rarer because little else can be said beside them everywhere.
const PAYLOADS: [&str; 5] = [
    "payload 0:17",
    "payload 0:170003..",
    "payload 4:a5.f",
    "payload 0:1700032a00 payload 8:00",
    "payload 0:1700032a0000000042",
];

/// Draws rules that a packet can match: for a destination, where one is wanted.
pub fn rules(seed: u64, count: usize, upstream: bool) -> Vec<FlowMatch> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut all: Vec<FlowMatch> = Vec::new();
    while all.len() < count {
        let mut words = Vec::new();
        let dst = ["dst 198.51.100.7/32", "dst 198.51.100.0/24", "dst 2001:db8:ffff::7/128", "dst 2001:db8:ffff::/48"];
        if upstream || rng.random_bool(0.3) {
            words.push(dst[rng.random_range(0..dst.len())]);
        }
        for choices in CHOICES {
            if rng.random_bool(0.22) {
                words.push(choices[rng.random_range(0..choices.len())]);
            }
        }
        if rng.random_bool(0.15) {
            words.push(PAYLOADS[rng.random_range(0..PAYLOADS.len())]);
        }
        // Two families, or a fragment with ports: no rule.
        let Ok(matches) = words.join(" ").parse::<FlowMatch>() else { continue };
        if matches.impossible().is_none() && !all.contains(&matches) {
            all.push(matches);
        }
    }
    all
}

/// Draws what is done.
pub fn actions(seed: u64) -> impl Iterator<Item = Action> {
    let all = ["drop", "drop", "rate-limit 10 Mbps", "rate-limit 300 pps", "rate-limit 12345 bps", "rate-limit 7 kpps"];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    std::iter::repeat_with(move || all[rng.random_range(0..all.len())].parse().unwrap())
}
