//! One incident with everything that is known of it.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{between, lasted, vectors};
use crate::{
    cli::{
        plot::Screen,
        rules::{cost, expectation},
        text::{ago, aligned, clock, count, percent, rate, several, short, span, utc, wrapped},
    },
    decide::{
        Incident, Metric, Severity,
        classify::{Evidence, Finding, Share},
        incident::Named,
        mitigate::Phase,
    },
};

/// Where values stand, after their labels.
const INDENT: usize = 18;
/// Values of one field that are shown at most.
const VALUES: usize = 8;
/// A source with at least this share is worth a block.
const WORTH_BLOCKING: f64 = 0.1;
/// Blocks that are proposed at most.
const PROPOSED: usize = 3;
/// Rules that were considered and not chosen, at most.
const RUNNERS_UP: usize = 3;
/// Rules that differ in the source alone, and are told with all that is known of each, at most.
const ALIKE: u64 = 3;
/// From this distance on, times are told with their date, milliseconds.
const DATED_MS: i64 = 20 * 3_600_000;

/// Lays it out for a terminal: what matters first.
pub fn render(incident: &Incident, now_ms: i64, screen: Screen) -> String {
    let state = match incident.closed {
        None => format!("OPEN for {}", span(now_ms.saturating_sub(incident.opened.unix_ms))),
        Some(_) => format!("closed after {}", lasted(incident, now_ms)),
    };
    let mut text = format!(
        "{}, {}, {} sure, {state}\n",
        vectors(incident),
        incident.severity.as_str(),
        percent(incident.confidence)
    );
    for (label, value) in summary(incident, now_ms) {
        text.push_str(&field(label, &value));
    }
    for finding in &incident.findings {
        text.push_str(&finding_text(finding, screen));
    }
    text.push_str(&thinned(incident));
    text.push_str(&rules(incident));
    text.push_str(&timeline(incident));
    if incident.is_open() {
        text.push_str(&advice(incident));
    }
    screen.plain(&text)
}

fn field(label: &str, value: &str) -> String {
    let width = INDENT - 2;
    format!("  {label:<width$}{value}\n")
}

fn summary(incident: &Incident, now_ms: i64) -> Vec<(&'static str, String)> {
    let when = |ms: i64| format!("{} ({})", utc(ms), ago(now_ms, ms));
    let rates = |pps, bps| format!("{}, {}", rate(pps, Metric::Pps), rate(bps, Metric::Bps));
    let detected = span(between(incident.began, incident.opened));
    let mut rows = vec![
        ("id", incident.id.clone()),
        ("opened", format!("{}, {detected} after it began", when(incident.opened.unix_ms))),
    ];
    let exit = rate(incident.exit_threshold, incident.metric);
    match (incident.closed, incident.quiet_since) {
        (Some(closed), _) => rows.push(("closed", when(closed.unix_ms))),
        (None, Some(quiet)) => {
            rows.push(("now", rates(incident.pps, incident.bps)));
            rows.push(("quiet since", format!("{}: closes if it stays below {exit}", when(quiet.unix_ms))));
        }
        (None, None) => {
            rows.push(("now", rates(incident.pps, incident.bps)));
            rows.push(("closes", format!("once it stays below {exit}")));
        }
    }
    rows.push(("peak", rates(incident.peak_pps, incident.peak_bps)));
    let total = format!("{} packets, {}B, drops included", count(incident.packets), short(incident.bytes as f64));
    rows.push(("in all", total));
    if let Some(mitigated) = incident.mitigated {
        let after = span(between(incident.began, mitigated));
        rows.push(("mitigated", format!("{}, {after} after it began", when(mitigated.unix_ms))));
    }
    if let Some(tool) = &incident.tool {
        let why = incident.named.as_ref().map_or_else(|| "a hint".to_owned(), Named::words);
        rows.push(("looks like", format!("{tool} ({why}, nothing is decided by it)")));
    }
    rows
}

fn finding_text(finding: &Finding, screen: Screen) -> String {
    let evidence = &finding.evidence;
    let about = finding.vector.about().trim();
    let mut text = format!("\n{}, {} sure: {about}\n", finding.vector.as_str(), percent(finding.confidence));
    if !evidence.line.is_empty() {
        text.push_str(&format!("  {}\n", evidence.line));
    }
    text.push_str(&field("classes", &evidence.classes.join(", ")));
    text.push_str(&field("arithmetic", &arithmetic(evidence)));
    text.push_str(&field("samples", &samples(evidence)));
    text.push_str(&field("behaviour", &behaviour(evidence)));
    if !evidence.constant.is_empty() {
        text.push_str(&field("constant", &wrapped(&evidence.constant, INDENT, screen.width)));
    }
    let tables = [
        ("sources", &evidence.top_sources),
        ("destinations", &evidence.top_destinations),
        ("source ports", &evidence.source_ports),
        ("dest. ports", &evidence.destination_ports),
        ("lengths", &evidence.lengths),
        ("TTLs", &evidence.ttls),
        ("TCP flags", &evidence.flags),
    ];
    for (label, shares) in tables.into_iter().filter(|(_, shares)| !shares.is_empty()) {
        text.push_str(&field(label, &wrapped(&values(shares, |value| value.to_owned()), INDENT, screen.width)));
    }
    if !evidence.payloads.is_empty() {
        let payloads = values(&evidence.payloads, |value| format!("{value}{}", readable(value)));
        text.push_str(&field("payloads", &wrapped(&payloads, INDENT, screen.width)));
    }
    text
}

/// The sum that anybody can do again.
fn arithmetic(evidence: &Evidence) -> String {
    let counted = format!(
        "{} packets, {}B in {} = {} pps, {}",
        count(evidence.packets),
        short(evidence.bytes as f64),
        span(i64::try_from(evidence.window_ms).unwrap_or(i64::MAX)),
        exact(evidence.pps),
        rate(evidence.bps, Metric::Bps)
    );
    let (value, write): (f64, fn(f64) -> String) = match evidence.metric {
        None => return format!("{counted}; what is normal is not known yet"),
        Some(Metric::Structure) => return format!("{counted}; found by what it is, not by its rate"),
        Some(Metric::Pps) => (evidence.pps, |value| format!("{} pps", exact(value))),
        Some(Metric::Bps) => (evidence.bps, |value| rate(value, Metric::Bps)),
    };
    let times = value / evidence.threshold;
    let times = if times.is_finite() { format!(": {times:.1} times the threshold") } else { String::new() };
    let (baseline, spread) = (write(evidence.baseline), write(evidence.spread));
    format!("{counted}; normal {baseline} ± {spread}, threshold {}{times}", write(evidence.threshold))
}

/// Writes a rate without rounding it to a prefix: `48 210`.
fn exact(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { count(value.round() as u64) }
}

fn samples(evidence: &Evidence) -> String {
    format!(
        "{} looked at: {} (entropy {:.2} of 1), {}",
        count(evidence.samples),
        several(evidence.sources, "different source"),
        evidence.source_entropy,
        several(evidence.destinations, "destination")
    )
}

fn behaviour(evidence: &Evidence) -> String {
    let known = |share: Option<f64>| share.map_or("unavailable".to_owned(), percent);
    let normal = evidence.handshakes_normal.map_or(String::new(), |share| format!(" (normal {})", percent(share)));
    format!(
        "handshakes completed {}{normal}, answered {}, sources known before {}",
        known(evidence.handshakes_completed),
        known(evidence.answered),
        known(evidence.seen_before)
    )
}

fn values(shares: &[Share], write: impl Fn(&str) -> String) -> Vec<String> {
    let mut parts: Vec<String> =
        shares.iter().take(VALUES).map(|share| format!("{} ({})", write(&share.value), percent(share.share))).collect();
    if shares.len() > VALUES {
        parts.push(format!("{} more", shares.len() - VALUES));
    }
    parts
}

/// Returns a payload's text, where it has any. What senders wrote reaches a terminal here, so
/// nothing but plain letters may pass.
fn readable(hex: &str) -> String {
    let bytes: Option<Vec<u8>> = (0..hex.len() / 2)
        .map(|i| hex.get(2 * i..2 * i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    let is_text = |byte: &u8| *byte == b' ' || byte.is_ascii_graphic();
    match bytes {
        Some(bytes) if bytes.iter().filter(|byte| is_text(byte)).count() >= 4 => {
            let text: String = bytes.iter().map(|byte| if is_text(byte) { char::from(*byte) } else { '.' }).collect();
            format!(" \"{text}\"")
        }
        _ => String::new(),
    }
}

/// What is thinned because no rule is safe.
fn thinned(incident: &Incident) -> String {
    if incident.thinned.is_empty() {
        return String::new();
    }
    let of_class = |(class, pps): (&String, &f64)| format!("  {class}  {}pps pass\n", short(*pps));
    format!("\nthinned, because no rule is safe\n{}", incident.thinned.iter().map(of_class).collect::<String>())
}

/// The rules against it, with what was expected of each and what came.
fn rules(incident: &Incident) -> String {
    if incident.rules.is_empty() {
        return String::new();
    }
    let state = |state: Phase| match state {
        Phase::Shadow => "counts, and drops nothing yet",
        Phase::Enforcing => "in force",
        Phase::Withdrawn => "withdrawn",
        Phase::Ended => "ended",
    };
    let mut text = "\nrules\n".to_owned();
    let mut alike: BTreeMap<(String, &str), (u64, u64)> = BTreeMap::new();
    for rule in &incident.rules {
        if let Some(matches) = without_source(&rule.matches) {
            let (rules, dropped) = alike.entry((matches, state(rule.state))).or_default();
            *rules += 1;
            if *rules > ALIKE {
                *dropped += rule.measured.dropped;
                continue;
            }
        }
        text.push_str(&format!("  {}  {} then {}: {}\n", rule.id, rule.matches, rule.action, state(rule.state)));
        if !rule.reason.is_empty() {
            text.push_str(&format!("     {}\n", rule.reason));
        }
        text.push_str(&format!("     predicted {}\n", expectation(&rule.predicted)));
        let measured = &rule.measured;
        text.push_str(&format!(
            "     measured  {} of the attack's packets; {} matched, {} dropped ({}B); {}\n",
            percent(measured.attack_share),
            count(measured.packets),
            count(measured.dropped),
            short(measured.dropped_bytes as f64),
            several(measured.benign_flows, "flow") + " known from before"
        ));
        if let Some(cost) = cost(&measured.collateral) {
            text.push_str(&format!("     costs     {cost}\n"));
        }
        for other in rule.runners_up.iter().take(RUNNERS_UP) {
            text.push_str(&format!("     instead of {}: {}\n", other.matches, expectation(&other.predicted)));
        }
    }
    for ((matches, state), (rules, dropped)) in alike.into_iter().filter(|(_, (rules, _))| *rules > ALIKE) {
        let more = several(rules - ALIKE, "more rule");
        text.push_str(&format!(
            "  {more} like {matches}, {state}, each by another source: {} dropped\n",
            count(dropped)
        ));
    }
    text
}

/// Returns what a match says beside its source, where it names one host.
fn without_source(matches: &str) -> Option<String> {
    let words: Vec<&str> = matches.split(' ').collect();
    let at = words.iter().position(|word| *word == "src")?;
    let host = words.get(at + 1).is_some_and(|net| net.ends_with("/32") || net.ends_with("/128"));
    let rest = words.iter().take(at).chain(words.iter().skip(at + 2)).copied();
    host.then(|| rest.collect::<Vec<_>>().join(" "))
}

fn timeline(incident: &Incident) -> String {
    if incident.timeline.is_empty() {
        return String::new();
    }
    let row = |entry: &crate::decide::incident::Entry| {
        let after = between(incident.began, entry.at);
        let at = if after < DATED_MS { clock(entry.at.unix_ms) } else { utc(entry.at.unix_ms) };
        vec![at, format!("+{}", span(after)), entry.what.clone()]
    };
    let rows: Vec<Vec<String>> = incident.timeline.iter().map(row).collect();
    format!("\n{}", aligned(&["time (UTC)", "after", "what happened"], &rows, &[0, 2]))
}

/// What an operator can do now.
fn advice(incident: &Incident) -> String {
    let in_force = incident.rules.iter().filter(|rule| rule.state == Phase::Enforcing).count();
    if in_force > 0 {
        let rules = several(in_force as u64, "rule");
        return format!("\n{rules} in force against it. If this load is ordinary after all: ftagent baseline accept\n");
    }
    let mut text = "\nNo rule is in force against it: `ftagent status` says what the mode means now.\n".to_owned();
    if incident.severity == Severity::Info {
        return text;
    }
    let sources = incident.findings.iter().flat_map(|finding| &finding.evidence.top_sources);
    let worth = sources.filter(|source| source.share >= WORTH_BLOCKING && is_narrow(&source.value));
    let mut proposed: Vec<&Share> = Vec::new();
    for source in worth {
        if proposed.len() < PROPOSED && !proposed.iter().any(|known| known.value == source.value) {
            proposed.push(source);
        }
    }
    for source in &proposed {
        let line = format!("  ftagent block {} --for 10m", source.value);
        text.push_str(&format!("{line:<48}  drops about {}\n", percent(source.share)));
    }
    if proposed.is_empty() {
        text.push_str("Its sources are too many, or too little is known of them, to be blocked one by one.\n");
    }
    text.push_str("If this load is ordinary after all: ftagent baseline accept\n");
    text
}

/// Returns whether a source is one that a block may name without hitting half of the world.
fn is_narrow(value: &str) -> bool {
    match value.parse::<IpNet>() {
        Ok(IpNet::V4(net)) => net.prefix_len() >= 16,
        Ok(IpNet::V6(net)) => net.prefix_len() >= 32,
        Err(_) => value.parse::<IpAddr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{NOON, at, incident},
        *,
    };
    use crate::decide::mitigate::{Measured, Predicted, RuleReport, RunnerUp};

    const TERMINAL: Screen = Screen { width: 100, unicode: true };

    #[test]
    fn an_open_incident_says_everything() {
        let wanted = [
            "syn_flood, high, 97 % sure, OPEN for 1 min 12 s",
            "  id              20260801T120000Z-1",
            "  opened          2026-08-01 12:00:00 UTC (1 min ago), 0.2 s after it began",
            "  now             48.2 kpps, 24.7 Mbit/s",
            "  closes          once it stays below 500 pps",
            "  peak            60.0 kpps, 30.7 Mbit/s",
            "  in all          3 480 000 packets, 223 MB, drops included",
            "  looks like      hping3 (a hint, nothing is decided by it)",
            "",
            "syn_flood, 97 % sure: SYNs whose handshakes are never completed.",
            "  tcp_syn 48 210 pps against a learned 310±40, handshakes completed 2 % (normal 97 %)",
            "  classes         tcp_syn",
            "  arithmetic      4 821 packets, 309 kB in 0.1 s = 48 210 pps, 24.7 Mbit/s; normal 310 pps ± 40 pps, \
             threshold 620 pps: 77.8 times the threshold",
            "  samples         1 204 looked at: 1 197 different sources (entropy 0.99 of 1), 1 destination",
            "  behaviour       handshakes completed 2 % (normal 97 %), answered unavailable, sources known before 0 %",
            "  constant        ttl 64, window 512",
            "  sources         198.18.0.0/16 (60 %), 203.0.113.7/32 (12 %)",
            "  dest. ports     443 (99.9 %)",
            "  payloads        474554202f20 \"GET / \" (40 %), 00ff (10 %)",
            "",
            "  time (UTC)     after  what happened",
            "  12:00:00.000  +0.2 s  opened as syn_flood",
            "  12:00:04.200  +4.4 s  severity rose to high",
            "",
            "No rule is in force against it: `ftagent status` says what the mode means now.",
            "  ftagent block 198.18.0.0/16 --for 10m           drops about 60 %",
            "  ftagent block 203.0.113.7/32 --for 10m          drops about 12 %",
            "If this load is ordinary after all: ftagent baseline accept",
            "",
        ];
        assert_eq!(render(&incident(), NOON + 72_000, TERMINAL), wanted.join("\n"));
    }

    #[test]
    fn rules_are_told_with_what_was_expected() {
        let predicted = Predicted { attack_share: 0.98, clean_share: 0.0, uncertain_share: 0.0, clean_flows: 1500 };
        let measured = Measured {
            packets: 12_000,
            dropped: 11_000,
            dropped_bytes: 5_200_000,
            pps: 400.0,
            attack_share: 0.97,
            benign_flows: 0,
            ..Measured::default()
        };
        let other = RunnerUp { matches: "udp sport 123".to_owned(), predicted };
        let rule = RuleReport {
            id: 1,
            matches: "udp sport 123 len 468".to_owned(),
            action: "drop".to_owned(),
            state: Phase::Enforcing,
            reason: "the fewest packets of others".to_owned(),
            predicted,
            measured,
            runners_up: vec![other],
            withdrawn_by: None,
        };
        let one = Incident { rules: vec![rule], mitigated: Some(at(300)), ..incident() };
        let text = render(&one, NOON + 72_000, TERMINAL);
        let wanted = [
            "rules",
            "  1  udp sport 123 len 468 then drop: in force",
            "     the fewest packets of others",
            "     predicted 98 % of the attack's packets, 0 % of clean traffic (from 1 500 clean flows)",
            "     measured  97 % of the attack's packets; 12 000 matched, 11 000 dropped (5.20 MB); 0 flows known from before",
            "     instead of udp sport 123: 98 % of the attack's packets, 0 % of clean traffic (from 1 500 clean flows)",
            "",
        ];
        assert!(text.contains(&wanted.join("\n")), "{text}");
        assert!(text.contains("1 rule in force against it") && !text.contains("ftagent block"), "{text}");
        assert!(text.contains("  mitigated       2026-08-01 12:00:00 UTC (1 min ago), "), "{text}");
    }

    #[test]
    fn rules_that_differ_in_the_source_alone_are_told_in_one_line() {
        let rule = |number: u32| RuleReport {
            id: number,
            matches: format!("tcp src 192.0.2.{number}/32 dport 80"),
            action: "drop".to_owned(),
            state: if number == 9 { Phase::Ended } else { Phase::Enforcing },
            reason: String::new(),
            predicted: Predicted::default(),
            measured: Measured { dropped: 1000, ..Measured::default() },
            runners_up: Vec::new(),
            withdrawn_by: None,
        };
        let text = render(&Incident { rules: (1..10).map(rule).collect(), ..incident() }, NOON, TERMINAL);
        let told = [1, 2, 3, 9].map(|number| format!("  {number}  tcp src 192.0.2.{number}/32 dport 80 then drop: "));
        assert!(told.iter().all(|line| text.contains(line)) && !text.contains("192.0.2.4"), "{text}");
        let wanted = "  5 more rules like tcp dport 80, in force, each by another source: 5 000 dropped\n";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn a_closed_or_quiet_incident_says_when() {
        let closed = Incident { closed: Some(at(252_000)), ..incident() };
        let text = render(&closed, NOON + 600_000, TERMINAL);
        assert!(text.starts_with("syn_flood, high, 97 % sure, closed after 4 min 12 s\n"), "{text}");
        assert!(text.contains("closed          2026-08-01 12:04:12 UTC (5 min ago)\n"), "{text}");
        assert!(!text.contains("ftagent block") && !text.contains("  now  "), "{text}");
        let quiet = Incident { quiet_since: Some(at(60_000)), ..incident() };
        let text = render(&quiet, NOON + 72_000, TERMINAL);
        let wanted = "quiet since     2026-08-01 12:01:00 UTC (12 s ago): closes if it stays below 500 pps";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn arithmetic_fits_what_was_exceeded() {
        let evidence = incident().findings[0].evidence.clone();
        let cases = [
            (None, 620.0, "24.7 Mbit/s; what is normal is not known yet"),
            (Some(Metric::Structure), 0.0, "24.7 Mbit/s; found by what it is, not by its rate"),
            (Some(Metric::Bps), 1e6, "normal 310 bit/s ± 40 bit/s, threshold 1.00 Mbit/s: 24.7 times the threshold"),
            (Some(Metric::Pps), 0.0, "normal 310 pps ± 40 pps, threshold 0.0 pps"),
        ];
        for (metric, threshold, wanted) in cases {
            let text = arithmetic(&Evidence { metric, threshold, ..evidence.clone() });
            assert!(text.ends_with(wanted), "{text}");
        }
    }

    #[test]
    fn blocks_are_proposed_only_where_they_help() {
        let with = |sources: &[(&str, f64)]| {
            let mut incident = incident();
            incident.findings[0].evidence.top_sources =
                sources.iter().map(|(value, share)| Share { value: (*value).to_owned(), share: *share }).collect();
            advice(&incident)
        };
        let cases: [(&[(&str, f64)], &str); 4] = [
            (&[("2001:db8::/48", 0.9)], "ftagent block 2001:db8::/48 --for 10m"),
            (&[("203.0.113.9", 0.3)], "ftagent block 203.0.113.9 --for 10m"),
            (&[("0.0.0.0/1", 0.5), ("203.0.113.9/32", 0.01)], "too many"),
            (&[], "too many"),
        ];
        for (sources, wanted) in cases {
            assert!(with(sources).contains(wanted), "{sources:?}: {}", with(sources));
        }
    }

    #[test]
    fn payloads_are_shown_as_text_only_where_they_are() {
        let cases = [
            ("474554202f", " \"GET /\""),
            ("0d0a47451b5b", ""),
            ("0d0a474554201b5b31", " \"..GET .[1\""),
            ("00ff", ""),
            ("zz", ""),
            ("é", ""),
            ("", ""),
        ];
        for (hex, wanted) in cases {
            assert_eq!(readable(hex), wanted, "{hex}");
        }
    }
}
