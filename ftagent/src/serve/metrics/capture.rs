//! What is recorded.

use std::sync::LazyLock;

use super::Scrape;
use crate::record::{ioc::Library, recorder::status::CaptureStatus};

/// What patterns are called: a bounded number, whatever operators write.
static LABELS: LazyLock<Vec<String>> = LazyLock::new(Library::labels);

/// Adds the metrics to a scrape; none where nothing is recorded.
pub(super) fn families(scrape: &Scrape, capture: Option<&CaptureStatus>) -> prometheus::Result<()> {
    let Some(capture) = capture else { return Ok(()) };
    let packets = scrape.counter("ftagent_capture_packets_total", &[])?;
    packets.with_label_values::<&str>(&[]).inc_by(capture.written);
    let lost = scrape.counter("ftagent_capture_lost_total", &["reason"])?;
    let reasons = &capture.lost;
    for (reason, count) in [
        ("not_sampled", reasons.not_sampled),
        ("kernel", reasons.kernel),
        ("tape", reasons.tape),
        ("quota", reasons.quota),
        ("disk", reasons.disk),
    ] {
        lost.with_label_values(&[reason]).inc_by(count);
    }
    for (name, bytes) in
        [("ftagent_capture_ring_bytes", capture.ring_bytes), ("ftagent_capture_disk_bytes", capture.disk_bytes)]
    {
        let gauge = scrape.gauge(name, &[])?;
        gauge.with_label_values::<&str>(&[]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    // Every one from the first scrape on, or the first hits of an incident would be no increase.
    let hits = scrape.counter("ftagent_indicator_hits_total", &["pattern"])?;
    for name in LABELS.iter() {
        hits.with_label_values(&[name]).inc_by(capture.hits.get(name).copied().unwrap_or(0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::recorder::meta::Lost,
        serve::metrics::{Facts, METRICS, Sources, encode},
    };

    #[test]
    fn a_scrape_says_what_is_recorded_and_what_is_not() {
        let lost = Lost { quota: 7, not_sampled: 90, ..Lost::default() };
        let hits = [("mirai_scan".to_owned(), 3), ("custom".to_owned(), 4), ("nobody knows".to_owned(), 5)].into();
        let capture =
            CaptureStatus { hits, written: 12, lost, ring_bytes: 1 << 20, disk_bytes: 5, ..Default::default() };
        let sources = Sources::default();
        let text = String::from_utf8(encode(&sources).unwrap()).unwrap();
        assert!(!text.contains("ftagent_capture"), "nothing is recorded");
        *sources.facts.lock().unwrap() = Facts { capture: Some(capture), ..Facts::default() };
        let text = String::from_utf8(encode(&sources).unwrap()).unwrap();
        for line in [
            "ftagent_capture_packets_total 12",
            r#"ftagent_capture_lost_total{reason="quota"} 7"#,
            r#"ftagent_capture_lost_total{reason="not_sampled"} 90"#,
            r#"ftagent_capture_lost_total{reason="disk"} 0"#,
            "ftagent_capture_ring_bytes 1048576",
            "ftagent_capture_disk_bytes 5",
            r#"ftagent_indicator_hits_total{pattern="mirai_scan"} 3"#,
            r#"ftagent_indicator_hits_total{pattern="custom"} 4"#,
            r#"ftagent_indicator_hits_total{pattern="ntp_monlist_answer"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("nobody knows"));
        for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').unwrap_or((line, ""));
            assert!(METRICS.contains(&(name, help)), "{name}: {help}");
        }
    }
}
