//! What is known to be normal, and what was found: the metrics of the functional core.

use std::collections::BTreeMap;

use prometheus::{Histogram, HistogramOpts};

use super::{Scrape, help};
use crate::decide::{Metric, Vector, baseline::View};

/// Upper bounds of the histogram, seconds. The promise is 0.3 s at ten times the baseline and 2 s
/// at three times.
pub(super) const BUCKETS: [f64; 10] = [0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0];
/// Every state of learning.
const STATES: [&str; 3] = ["new", "learning", "learned"];

/// What the functional core tells the metrics.
#[derive(Clone, Debug, Default)]
pub struct Detection {
    /// One of `new`, `learning` and `learned`.
    pub state: String,
    /// Every class and metric that was ever seen; histories may be left out.
    pub views: Vec<View>,
    /// Open incidents by vector.
    pub active: BTreeMap<Vector, usize>,
    /// Incidents that opened since the start, by vector.
    pub opened: BTreeMap<Vector, u64>,
    /// Seconds from the beginning of each of them to its opening.
    pub detect_seconds: Vec<f64>,
    /// Notices since the start.
    pub notices: u64,
}

/// Adds the metrics to a scrape. Series of classes exist once the class was seen; those of vectors
/// always do, so that an alert on them works before the first attack.
pub(super) fn families(scrape: &Scrape, detection: &Detection) -> prometheus::Result<()> {
    rates(scrape, &detection.views)?;
    let state = scrape.gauge("ftagent_learning_state", &["state"])?;
    for name in STATES {
        state.with_label_values(&[name]).set(i64::from(detection.state == name));
    }
    let opened = scrape.counter("ftagent_incidents_total", &["vector"])?;
    let active = scrape.gauge("ftagent_incident_active", &["vector"])?;
    for vector in Vector::ALL {
        opened.with_label_values(&[vector.as_str()]).inc_by(detection.opened.get(vector).copied().unwrap_or_default());
        let open = detection.active.get(vector).copied().unwrap_or_default();
        active.with_label_values(&[vector.as_str()]).set(i64::try_from(open).unwrap_or(i64::MAX));
    }
    let name = "ftagent_time_to_detect_seconds";
    let detect = Histogram::with_opts(HistogramOpts::new(name, help(name)).buckets(BUCKETS.to_vec()))?;
    detection.detect_seconds.iter().for_each(|seconds| detect.observe(*seconds));
    scrape.0.register(Box::new(detect))?;
    let notices = scrape.counter("ftagent_notices_total", &[])?;
    notices.with_label_values::<&str>(&[]).inc_by(detection.notices);
    Ok(())
}

/// Prometheus counts bytes, not bits: these compare with the rate of `ftagent_bytes_total`.
fn rates(scrape: &Scrape, views: &[View]) -> prometheus::Result<()> {
    let families = |name: &str| -> prometheus::Result<_> {
        let packets = scrape.rate(&format!("ftagent_{name}_packets_per_second"), &["class"])?;
        Ok((packets, scrape.rate(&format!("ftagent_{name}_bytes_per_second"), &["class"])?))
    };
    let (baseline, threshold, ceiling) = (families("baseline")?, families("threshold")?, families("ceiling")?);
    for view in views {
        // A threshold or ceiling of 0 is one that is not known yet.
        let known = |value: f64| Some(value).filter(|value| value.is_finite() && *value > 0.0);
        let levels = [(&threshold, known(view.threshold)), (&ceiling, known(view.ceiling))];
        let values = std::iter::once((&baseline, Some(view.baseline))).chain(levels);
        for ((packets, bytes), value) in values.filter_map(|(family, value)| Some((family, value?))) {
            match view.metric {
                Metric::Pps => packets.with_label_values(&[&view.class]).set(value),
                Metric::Bps => bytes.with_label_values(&[&view.class]).set(value / 8.0),
                Metric::Structure => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::metrics::{Facts, METRICS, Sources, encode};

    fn scrape(detection: Detection) -> String {
        let sources = Sources::default();
        *sources.facts.lock().unwrap() = Facts { detection, ..Facts::default() };
        String::from_utf8(encode(&sources).unwrap()).unwrap()
    }

    fn view(metric: Metric, baseline: f64) -> View {
        View {
            class: "tcp_syn".to_owned(),
            metric,
            rate: 0.0,
            baseline,
            spread: 1.0,
            threshold: 2.0 * baseline,
            ceiling: 0.0,
            trusted: true,
            minutes: Vec::new(),
            hours: Vec::new(),
        }
    }

    #[test]
    fn a_scrape_says_what_was_found() {
        let text = scrape(Detection {
            state: "learning".to_owned(),
            views: vec![view(Metric::Pps, 310.0), view(Metric::Bps, 160_000.0)],
            active: BTreeMap::from([(Vector::SynFlood, 1)]),
            opened: BTreeMap::from([(Vector::SynFlood, 3)]),
            detect_seconds: vec![0.15, 0.25, 4.0],
            notices: 7,
        });
        for line in [
            r#"ftagent_baseline_packets_per_second{class="tcp_syn"} 310"#,
            r#"ftagent_threshold_packets_per_second{class="tcp_syn"} 620"#,
            r#"ftagent_baseline_bytes_per_second{class="tcp_syn"} 20000"#,
            r#"ftagent_threshold_bytes_per_second{class="tcp_syn"} 40000"#,
            r#"ftagent_incidents_total{vector="syn_flood"} 3"#,
            r#"ftagent_incidents_total{vector="udp_flood"} 0"#,
            r#"ftagent_incident_active{vector="syn_flood"} 1"#,
            r#"ftagent_incident_active{vector="udp_flood"} 0"#,
            r#"ftagent_time_to_detect_seconds_bucket{le="0.1"} 0"#,
            r#"ftagent_time_to_detect_seconds_bucket{le="0.2"} 1"#,
            r#"ftagent_time_to_detect_seconds_bucket{le="0.3"} 2"#,
            r#"ftagent_time_to_detect_seconds_bucket{le="10"} 3"#,
            "ftagent_time_to_detect_seconds_count 3",
            r#"ftagent_learning_state{state="new"} 0"#,
            r#"ftagent_learning_state{state="learning"} 1"#,
            "ftagent_notices_total 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        // What is not known has no series, and classes that were never seen have none.
        assert!(!text.contains("ftagent_ceiling_packets_per_second{"), "{text}");
        assert!(!text.contains(r#"{class="arp"}"#), "{text}");
        assert_eq!(text.matches("\nftagent_incident_active{").count(), Vector::ALL.len());
    }

    #[test]
    fn every_metric_that_is_served_is_listed_with_its_help() {
        let text =
            scrape(Detection { views: vec![view(Metric::Pps, 1.0), view(Metric::Bps, 1.0)], ..Detection::default() });
        for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').unwrap_or((line, ""));
            assert!(METRICS.contains(&(name, help)), "{name}: {help}");
        }
    }
}
