//! What people read, and the incident that other tests write about.

use super::*;
use crate::decide::{
    Vector,
    classify::Finding,
    mitigate::{Measured, Predicted, collateral::Collateral},
};

/// 2026-08-01 12:00:00 UTC.
pub const NOON: i64 = 1_785_585_600_000;

fn at(ms: i64) -> Now {
    Now { mono_ns: u64::try_from(1_000_000 + ms).unwrap() * 1_000_000, unix_ms: NOON + ms }
}

/// A flood that nothing is done about yet.
pub fn flood() -> Incident {
    let share = |value: &str, share: f64| Share { value: value.to_owned(), share };
    let evidence = Evidence {
        metric: Some(Metric::Pps),
        baseline: 310.0,
        threshold: 620.0,
        top_destinations: vec![share("192.0.2.1/32", 0.97)],
        destination_ports: vec![share("443", 0.999)],
        line: "tcp_syn 48 210 pps against a learned 310±40".to_owned(),
        ..Evidence::default()
    };
    let finding = Finding { vector: Vector::SynFlood, confidence: 0.97, tool: None, evidence };
    Incident {
        confidence: 0.97,
        severity: Severity::High,
        tool: Some("hping3".to_owned()),
        exit_threshold: 500.0,
        pps: 48_210.0,
        bps: 24_683_520.0,
        peak_pps: 60_000.0,
        peak_bps: 30_720_000.0,
        packets: 3_480_000,
        bytes: 222_720_000,
        findings: vec![finding],
        ..Incident::new("20260801T120000Z-1".to_owned(), Vector::SynFlood, at(-200), at(0))
    }
}

fn rule(state: Phase) -> RuleReport {
    RuleReport {
        id: 7,
        matches: "proto tcp flags syn window 512".to_owned(),
        action: "drop".to_owned(),
        state,
        reason: String::new(),
        predicted: Predicted { attack_share: 0.97, clean_share: 0.0004, ..Predicted::default() },
        measured: Measured { packets: 100, dropped: 3_400_000, attack_share: 0.98, ..Measured::default() },
        runners_up: Vec::new(),
        withdrawn_by: None,
    }
}

fn context<'a>(what: &'a [String], beyond: &'a [String]) -> Context<'a> {
    Context {
        node: "edge1",
        link: "https://noc.example.net/i/{incident}",
        now_ms: NOON + 1000,
        what,
        raised: None,
        beyond,
    }
}

/// The message that the flood opened.
pub fn opened() -> Alert {
    incident(Kind::Opened, &flood(), &context(&["something".to_owned()], &[]))
}

#[test]
fn the_first_line_says_all() {
    let enforced = Incident { rules: vec![rule(Phase::Enforcing)], mitigated: Some(at(900)), ..flood() };
    let over = Incident { closed: Some(at(252_000)), rules: vec![rule(Phase::Ended)], ..flood() };
    let collateral = Collateral { ratio: 0.02, low: 0.011, high: 0.03, ..Collateral::default() };
    let mut dear = rule(Phase::Withdrawn);
    dear.measured.collateral = collateral;
    dear.measured.benign_flows = 4;
    let dear = Incident { rules: vec![dear], ..flood() };
    let both = Incident {
        vector: Vector::MultiVector,
        vectors: vec![Vector::SynFlood, Vector::UdpFlood],
        severity: Severity::Critical,
        thinned: BTreeMap::from([("udp_other".to_owned(), 300.0)]),
        ..flood()
    };
    let what = ["it is udp_flood too".to_owned()];
    let beyond = ["FlowSpec: proto udp then drop at 192.0.2.254".to_owned()];
    let cases = [
        (
            Kind::Opened,
            flood(),
            "ATTACK on edge1: syn_flood, high: 48.2 kpps, 24.7 Mbit/s (normal 310 pps); no rule in force; FlowSpec",
        ),
        (
            Kind::Mitigated,
            enforced,
            "syn_flood on edge1 is mitigated 1.1 s after it began: 1 rule removes 98 % of it; FlowSpec; 48.2 kpps, 24.7 Mbit/s",
        ),
        (
            Kind::Closed,
            over,
            "OVER: syn_flood on edge1 after 4 min 12 s: peak 60.0 kpps, 30.7 Mbit/s; 98 % of its packets dropped; FlowSpec",
        ),
        (
            Kind::Collateral,
            dear,
            "COLLATERAL on edge1: what is done against syn_flood costs ordinary traffic: rule 7 (proto tcp flags syn window 512) dropped 2 % of it (1 % to 3 %), 4 conversations from before; it was withdrawn",
        ),
        (
            Kind::Escalated,
            both.clone(),
            "multi_vector (syn_flood, udp_flood) on edge1 is now critical: 48.2 kpps, 24.7 Mbit/s (normal 310 pps); no rule in force; 1 class thinned; FlowSpec",
        ),
        (
            Kind::Changed,
            both,
            "multi_vector (syn_flood, udp_flood) on edge1, critical: it is udp_flood too; 48.2 kpps, 24.7 Mbit/s; no rule in force; 1 class thinned; FlowSpec",
        ),
    ];
    for (kind, about, wanted) in cases {
        assert_eq!(incident(kind, &about, &context(&what, &beyond)).title, wanted);
    }
}

#[test]
fn what_follows_is_what_one_asks_next() {
    let about = Incident { rules: vec![rule(Phase::Enforcing)], ..flood() };
    let alert = incident(Kind::Opened, &about, &context(&[], &[]));
    let wanted = [
        "Rates: 48.2 kpps, 24.7 Mbit/s now, peak 60.0 kpps, 30.7 Mbit/s; normal 310 pps, threshold 620 pps",
        "Target: 192.0.2.1/32 (97 %), port 443 (99.9 %)",
        "Evidence: tcp_syn 48 210 pps against a learned 310±40 (97 % sure)",
        "Rule 7 (in force): proto tcp flags syn window 512 then drop: expected 97 % of the attack at < 0.1 % of clean \
         traffic, measured 98 % at 0 % (3 400 000 dropped)",
        "Opened 2026-08-01 12:00:00 UTC, 0.2 s after it began",
        "More: ftagent incidents show 20260801T120000Z-1",
        "https://noc.example.net/i/20260801T120000Z-1",
    ];
    assert_eq!(alert.body().lines().collect::<Vec<_>>(), wanted);
    assert_eq!(alert.key(), "ftagent/edge1/20260801T120000Z-1");
}

#[test]
fn what_senders_wrote_commands_nothing() {
    let mut about = flood();
    about.findings[0].evidence.line = format!("payload \x1b[2J\n{}", "x".repeat(5000));
    let alert = incident(Kind::Opened, &about, &context(&[], &[]));
    let all = format!("{}{:?}", alert.text(), alert.facts);
    assert!(
        !all.contains('\x1b') && alert.lines.iter().all(|line| line.chars().count() <= LINE && !line.contains('\n'))
    );
}

#[test]
fn links_are_as_configured() {
    for (base, id, wanted) in [
        ("", "x", None),
        ("https://n/{incident}?a", "x", Some("https://n/x?a")),
        ("https://n/", "x", Some("https://n/incidents/x")),
        ("https://n/", "", Some("https://n/")),
    ] {
        assert_eq!(link(base, id).as_deref(), wanted);
    }
}
