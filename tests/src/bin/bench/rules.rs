//! What signature rules cost: the same program with the stage and without it.

use anyhow::Result;
use ftagent::{
    bpf::rules::Placed,
    rule::{Action, Origin, Rate, Rule},
};
use ftagent_common::{abi::features, reason::verdict};

use crate::{
    frames::Kind,
    measure::{Bench, Input},
    ours::Ours,
    report::Row,
};

/// What the stage may cost without a rule, ns.
const NONE: f64 = 1.0;
/// What 256 rules without prefixes may cost, ns.
const FIELDS: f64 = 12.0;
/// What 256 rules with prefixes may cost, ns.
const PREFIXES: f64 = 70.0;
/// What 256 rules may cost, in parts of one.
const GROWTH: f64 = 1.5;
/// Jiffies in a second; no rate here depends on it.
const HZ: u64 = 250;

/// How a set of rules is drawn: the text of the rule with a number.
type Text = fn(u16) -> String;

/// A case: its name, the packets, how many rules of which kind, what they do, the verdict, and the
/// most that it may cost, ns.
type Case<'a> = (&'static str, &'a Kind, u16, Text, Action, u32, Option<f64>);

/// Rules of many kinds, so that every dimension is looked at. None matches.
fn fields(i: u16) -> String {
    match i % 4 {
        0 => format!("udp sport {} len 300-1500", 1000 + i),
        1 => format!("udp dport {} ttl 1-32", 20_000 + i),
        2 => format!("tcp dport {} flags syn/syn+ack len 40-60", 1000 + i),
        _ => format!("icmp icmp-type 3 len {}", 100 + i),
    }
}

/// Rules that the packets satisfy but for the addresses, in both dimensions.
fn prefixes(i: u16) -> String {
    match i % 2 {
        0 => format!("dport 1-10000 dst 198.18.{}.0/25", i),
        _ => format!("dport 1-10000 src 203.0.{}.0/25", i),
    }
}

/// The same for packets to other ports: no rule is left when prefixes would be looked at.
fn elsewhere(i: u16) -> String {
    prefixes(i).replace("dport 1-10000", "dport 20000-30000")
}

fn elsewhere6(i: u16) -> String {
    prefixes6(i).replace("dport 1-10000", "dport 20000-30000")
}

fn prefixes6(i: u16) -> String {
    match i % 2 {
        0 => format!("dport 1-10000 dst 2001:db8:1:{i:x}::/64"),
        _ => format!("dport 1-10000 src 2001:db8:2:{i:x}::/64"),
    }
}

/// As [`fields`], but the last rule matches everything.
fn last(i: u16) -> String {
    if i == 255 { "len 1-65535".into() } else { fields(i) }
}

fn set(count: u16, text: Text, action: Action) -> Result<Vec<Placed>> {
    let rule = |i: u16| {
        let rule = Rule { matches: text(i).parse()?, action, origin: Origin::Config, reason: String::new() };
        Ok(Placed { slot: i as u8, rule, expires: u64::MAX })
    };
    (0..count).map(rule).collect()
}

/// Measures sets of rules on packets of three kinds: UDP, TCP and IPv6.
pub fn rows(bench: &mut Bench, ours: &mut Ours, kinds: [&Kind; 3]) -> Result<Vec<Row>> {
    let mut without = Ours::with(features::ALL & !features::RULES)?;
    let [udp, tcp, udp6] = kinds;
    let (pass, drop) = (verdict::PASS, verdict::DROP);
    let within = Action::RateLimit(Rate::Pps(u64::MAX));
    let cases: [Case<'_>; 14] = [
        ("no rules", udp, 0, fields, Action::Drop, pass, Some(NONE)),
        ("no rules, tcp", tcp, 0, fields, Action::Drop, pass, Some(NONE)),
        ("1 rule, no match", udp, 1, fields, Action::Drop, pass, None),
        ("64 rules, no match", udp, 64, fields, Action::Drop, pass, None),
        ("256 rules, no match", udp, 256, fields, Action::Drop, pass, Some(FIELDS)),
        ("256 rules, no match, tcp", tcp, 256, fields, Action::Drop, pass, Some(FIELDS)),
        ("256 rules, the last drops", udp, 256, last, Action::Drop, drop, None),
        ("256 rules, within the last's rate", udp, 256, last, within, pass, None),
        ("1 rule with a prefix", udp, 1, prefixes, Action::Drop, pass, None),
        ("256 rules with prefixes", udp, 256, prefixes, Action::Drop, pass, Some(PREFIXES)),
        ("256 with prefixes, no candidate", udp, 256, elsewhere, Action::Drop, pass, Some(FIELDS)),
        ("1 rule with a prefix, ipv6", udp6, 1, prefixes6, Action::Drop, pass, None),
        ("256 rules with prefixes, ipv6", udp6, 256, prefixes6, Action::Drop, pass, Some(PREFIXES)),
        ("256 with prefixes, no candidate, ipv6", udp6, 256, elsewhere6, Action::Drop, pass, Some(FIELDS)),
    ];
    let mut rows = Vec::new();
    let (mut one, mut all) = (f64::NAN, f64::NAN);
    for (case, kind, count, text, action, expected, target) in cases {
        ours.rules.install(&set(count, text, action)?, HZ)?;
        let inputs = [Input::Constant(&kind.frame), Input::Cycle(&[kind], &[])];
        for (name, input) in ["constant", "cycle"].into_iter().zip(inputs) {
            let (with, mut drain) = ours.subject(expected)?;
            let (bare, mut drain_bare) = without.subject(pass)?;
            let mut between = || {
                drain();
                drain_bare();
            };
            let ns = bench.measure(&[with, bare], input, &mut between)?;
            let more = ns[0] - ns[1];
            rows.push(Row { input: name, ..Row::alone(case, more, "ns", target) });
            match (case, name) {
                ("1 rule, no match", "cycle") => one = more,
                ("256 rules, no match", "cycle") => all = more,
                _ => {}
            }
        }
    }
    ours.rules.install(&[], HZ)?;
    rows.push(Row::alone("256 rules in parts of one", all / one, "", Some(GROWTH)));
    Ok(rows)
}
