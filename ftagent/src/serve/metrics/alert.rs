//! Who is told.

use super::Scrape;
use crate::alert::Status;

/// Adds the metrics to a scrape. Sinks are those of the configuration: 32 at most.
pub(super) fn families(scrape: &Scrape, status: &Status) -> prometheus::Result<()> {
    let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    let results = scrape.counter("ftagent_alerts_total", &["sink", "result"])?;
    let failures = scrape.counter("ftagent_alert_failures_total", &["sink"])?;
    let waiting = scrape.gauge("ftagent_alerts_waiting", &["sink"])?;
    let oldest = scrape.gauge("ftagent_alert_oldest_seconds", &["sink"])?;
    let up = scrape.gauge("ftagent_alert_sink_up", &["sink"])?;
    for sink in &status.sinks {
        let name = sink.name.as_str();
        for (result, times) in &sink.results {
            results.with_label_values(&[name, result]).inc_by(*times);
        }
        failures.with_label_values(&[name]).inc_by(sink.failures);
        waiting.with_label_values(&[name]).set(number(sink.waiting));
        oldest.with_label_values(&[name]).set(i64::try_from(sink.oldest_s).unwrap_or(i64::MAX));
        up.with_label_values(&[name]).set(i64::from(sink.trouble.is_none()));
    }
    let bytes = scrape.gauge("ftagent_alert_outbox_bytes", &[])?;
    bytes.with_label_values::<&str>(&[]).set(i64::try_from(status.log_bytes).unwrap_or(i64::MAX));
    let unsaved = scrape.gauge("ftagent_alert_outbox_unsaved", &[])?;
    unsaved.with_label_values::<&str>(&[]).set(i64::from(status.disk.is_some()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        alert::SinkStatus,
        serve::metrics::{Facts, Sources, encode},
    };

    #[test]
    fn a_scrape_says_how_each_sink_is() {
        let sink = SinkStatus {
            name: "oncall".to_owned(),
            waiting: 3,
            oldest_s: 7,
            failures: 2,
            trouble: Some("500".to_owned()),
            results: [("delivered".to_owned(), 5)].into(),
            ..SinkStatus::default()
        };
        let alerts = Status { sinks: vec![sink], log_bytes: 99, ..Status::default() };
        let sources = Sources::default();
        *sources.facts.lock().unwrap() = Facts { alerts: Some(alerts), ..Facts::default() };
        let text = String::from_utf8(encode(&sources).unwrap()).unwrap();
        for line in [
            "ftagent_alerts_total{result=\"delivered\",sink=\"oncall\"} 5",
            "ftagent_alerts_waiting{sink=\"oncall\"} 3",
            "ftagent_alert_oldest_seconds{sink=\"oncall\"} 7",
            "ftagent_alert_failures_total{sink=\"oncall\"} 2",
            "ftagent_alert_sink_up{sink=\"oncall\"} 0",
            "ftagent_alert_outbox_bytes 99",
            "ftagent_alert_outbox_unsaved 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
