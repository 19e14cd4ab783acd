//! What is told together, and what is not lost by it.

use super::*;
use crate::{
    alert::message::tests::{NOON, flood},
    decide::Now,
};

fn topic() -> Topic {
    let incident = Arc::new(flood());
    Topic {
        severity: incident.severity,
        incident,
        mitigated: false,
        dear: BTreeSet::new(),
        told: Instant::now(),
        pending: BTreeSet::new(),
        what: Vec::new(),
        raised: None,
        beyond: Vec::new(),
    }
}

/// How long it may wait yet, milliseconds since the last message: the first instant at which it is told.
fn due_ms(topic: &Topic) -> Option<u64> {
    (0..=60_000).step_by(500).find(|ms| topic.is_due(Duration::from_millis(*ms), Duration::from_secs(60)))
}

#[test]
fn an_attack_that_gets_worse_is_told_to_be_mitigated_too() {
    let at = Now { mono_ns: 1, unix_ms: NOON };
    let worse = Incident { severity: Severity::Critical, ..flood() };
    let both = Incident { mitigated: Some(at), ..worse.clone() };
    let kinds = |topic: &Topic| topic.pending.iter().copied().collect::<Vec<_>>();

    // A ramp is waited for; a mitigation ends the waiting for all.
    let mut one = topic();
    assert_eq!(due_ms(&one), None);
    one.incident = Arc::new(worse);
    one.notice(Some(News::Changed("it is more".to_owned())));
    assert_eq!((kinds(&one), due_ms(&one)), (vec![Kind::Escalated, Kind::Changed], Some(5000)));
    one.incident = Arc::new(both.clone());
    one.notice(None);
    assert_eq!((kinds(&one), due_ms(&one)), (vec![Kind::Escalated, Kind::Changed, Kind::Mitigated], Some(1000)));

    // The same where both are seen at once, and where a step upstream comes between.
    let mut two = topic();
    two.incident = Arc::new(both);
    two.notice(Some(News::Escalated("flowspec: asked".to_owned())));
    assert_eq!((kinds(&two), due_ms(&two)), (vec![Kind::Escalated, Kind::Mitigated], Some(1000)));

    // Each is news once.
    two.pending.clear();
    two.notice(None);
    assert_eq!(kinds(&two), []);
}
