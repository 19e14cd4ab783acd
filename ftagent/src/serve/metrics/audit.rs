//! The audit log.

use super::Scrape;
use crate::record::audit::AuditMetrics;

/// Adds the metrics to a scrape.
pub(super) fn families(scrape: &Scrape, audit: &AuditMetrics) -> prometheus::Result<()> {
    let AuditMetrics { entries, lost, unsigned, failures } = *audit;
    let counters = [
        ("ftagent_audit_entries_total", entries),
        ("ftagent_audit_lost_total", lost),
        ("ftagent_audit_write_failures_total", failures),
    ];
    for (name, value) in counters {
        scrape.counter(name, &[])?.with_label_values::<&str>(&[]).inc_by(value);
    }
    let unsigned = i64::try_from(unsigned).unwrap_or(i64::MAX);
    scrape.gauge("ftagent_audit_unsigned_lines", &[])?.with_label_values::<&str>(&[]).set(unsigned);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::metrics::{Facts, Sources, encode};

    #[test]
    fn a_scrape_says_how_the_log_is() {
        let sources = Sources::default();
        let audit = Some(AuditMetrics { entries: 12, lost: 3, unsigned: 2, failures: 1 });
        *sources.facts.lock().unwrap() = Facts { audit, ..Facts::default() };
        let text = String::from_utf8(encode(&sources).unwrap()).unwrap();
        for line in [
            "ftagent_audit_entries_total 12",
            "ftagent_audit_lost_total 3",
            "ftagent_audit_unsigned_lines 2",
            "ftagent_audit_write_failures_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
