//! What is done about attacks: rules, and how soon.

use prometheus::{Histogram, HistogramOpts};

use super::{Scrape, detection::BUCKETS, help};

/// What the agent tells the metrics of rules.
#[derive(Clone, Debug, Default)]
pub struct Mitigation {
    /// What puts rules into force: `xdp` or `nftables`; empty before it is known.
    pub plane: &'static str,
    /// Rules by state.
    pub states: Vec<(&'static str, usize)>,
    /// Rules wanted minus rules present.
    pub drift: i64,
    /// Packets that matched, by slot, of slots that were used.
    pub slots: Vec<(u8, u64)>,
    /// Share of benign packets that a rule drops, by slot, of rules of which it is known.
    pub collateral: Vec<(u8, f64)>,
    /// Seconds from the beginning of incidents to their first rule in force.
    pub mitigate_seconds: Vec<f64>,
}

/// Adds the metrics to a scrape.
pub(super) fn families(scrape: &Scrape, mitigation: &Mitigation) -> prometheus::Result<()> {
    let rules = scrape.gauge("ftagent_rules", &["plane", "state"])?;
    for (state, count) in &mitigation.states {
        rules.with_label_values(&[mitigation.plane, state]).set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    scrape.gauge("ftagent_rule_drift", &[])?.with_label_values::<&str>(&[]).set(mitigation.drift);
    let packets = scrape.counter("ftagent_rule_packets_total", &["slot"])?;
    for (slot, count) in &mitigation.slots {
        packets.with_label_values(&[slot.to_string()]).inc_by(*count);
    }
    let collateral = scrape.rate("ftagent_rule_collateral_ratio", &["slot"])?;
    for (slot, ratio) in &mitigation.collateral {
        collateral.with_label_values(&[slot.to_string()]).set(*ratio);
    }
    let name = "ftagent_time_to_mitigate_seconds";
    let mitigate = Histogram::with_opts(HistogramOpts::new(name, help(name)).buckets(BUCKETS.to_vec()))?;
    mitigation.mitigate_seconds.iter().for_each(|seconds| mitigate.observe(*seconds));
    scrape.0.register(Box::new(mitigate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::metrics::{Facts, METRICS, Sources, encode};

    #[test]
    fn a_scrape_says_what_is_done() {
        let mitigation = Mitigation {
            plane: "nftables",
            states: vec![("shadow", 1), ("enforcing", 3), ("armed", 2), ("failed", 0)],
            collateral: vec![(0, 0.25)],
            drift: -1,
            slots: vec![(0, 12), (255, 7)],
            mitigate_seconds: vec![0.25, 0.7],
        };
        let sources = Sources::default();
        *sources.facts.lock().unwrap() = Facts { mitigation, ..Facts::default() };
        let text = String::from_utf8(encode(&sources).unwrap()).unwrap();
        for line in [
            r#"ftagent_rules{plane="nftables",state="shadow"} 1"#,
            r#"ftagent_rules{plane="nftables",state="enforcing"} 3"#,
            r#"ftagent_rules{plane="nftables",state="armed"} 2"#,
            r#"ftagent_rules{plane="nftables",state="failed"} 0"#,
            r#"ftagent_rule_collateral_ratio{slot="0"} 0.25"#,
            "ftagent_rule_drift -1",
            r#"ftagent_rule_packets_total{slot="0"} 12"#,
            r#"ftagent_rule_packets_total{slot="255"} 7"#,
            r#"ftagent_time_to_mitigate_seconds_bucket{le="0.3"} 1"#,
            "ftagent_time_to_mitigate_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').unwrap_or((line, ""));
            assert!(METRICS.contains(&(name, help)), "{name}: {help}");
        }
    }
}
