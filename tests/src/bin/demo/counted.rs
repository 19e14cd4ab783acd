//! What the agent counted, and what that means.

use std::collections::BTreeMap;

use ftagent::serve::protocol::Status;
use ftagent_common::TrafficClass;
use ftagent_tests::traffic::Sent;

/// Packets on the protected interface.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// All of them.
    pub seen: u64,
    /// Those that were dropped.
    pub dropped: u64,
    /// SYNs that the guard answered.
    pub answered: u64,
    /// By class: all of them, and those that were dropped.
    classes: BTreeMap<String, (u64, u64)>,
    /// Those that were dropped, by reason.
    pub reasons: BTreeMap<String, u64>,
}

impl Counted {
    /// Reads it out of a status.
    pub fn of(status: &Status) -> Self {
        let Some(interface) = status.interfaces.first() else { return Self::default() };
        let reasons = interface.reasons.iter().map(|reason| (reason.reason.clone(), reason.packets));
        let classes = interface.classes.iter().map(|row| (row.class.clone(), (row.packets, row.dropped_packets)));
        Self {
            classes: classes.collect(),
            seen: interface.packets,
            dropped: interface.dropped_packets,
            answered: interface.sent_packets,
            reasons: reasons.collect(),
        }
    }

    /// Returns what came after an earlier count.
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |reason: &String| before.reasons.get(reason).copied().unwrap_or(0);
        let reasons = self.reasons.iter().map(|(reason, packets)| (reason.clone(), packets - earlier(reason)));
        let classes = self.classes.iter().map(|(class, now)| {
            let then = before.classes.get(class).copied().unwrap_or_default();
            (class.clone(), (now.0 - then.0, now.1 - then.1))
        });
        Self {
            classes: classes.collect(),
            seen: self.seen - before.seen,
            dropped: self.dropped - before.dropped,
            answered: self.answered - before.answered,
            reasons: reasons.filter(|(_, packets)| *packets > 0).collect(),
        }
    }

    /// Returns which share of the packets went no further.
    pub fn removed(&self) -> f64 {
        (self.dropped + self.answered) as f64 / self.seen.max(1) as f64
    }

    /// Returns how many packets of a class arrived. A link that is full loses packets that nobody sees.
    pub fn arrived(&self, class: TrafficClass) -> u64 {
        self.of_class(class).0
    }

    /// Returns how many packets of a class came through, and in how many milliseconds a flood sends them.
    /// Nothing but SYNs is answered.
    pub fn came_through(&self, class: TrafficClass, sent: &Sent) -> (u64, f64) {
        let (arrived, dropped) = self.of_class(class);
        let passed = arrived.saturating_sub(dropped + self.answered);
        (passed, passed as f64 * 1e3 / sent.pps().max(1.0))
    }

    fn of_class(&self, class: TrafficClass) -> (u64, u64) {
        self.classes.get(class.as_str()).copied().unwrap_or_default()
    }

    /// Returns what became of the packets that went no further, in words.
    pub fn by_reason(&self) -> String {
        let dropped = self.reasons.iter().map(|(reason, packets)| format!("{packets} dropped by {reason}"));
        let answered = (self.answered > 0).then(|| format!("{} answered with cookies", self.answered));
        let all: Vec<String> = dropped.chain(answered).collect();
        if all.is_empty() { "none removed".to_owned() } else { all.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_came_through_was_neither_dropped_nor_answered() {
        let class = TrafficClass::TcpSyn;
        let counted = |packets, dropped, answered| Counted {
            seen: packets + 50,
            dropped,
            answered,
            classes: [(class.as_str().to_owned(), (packets, dropped))].into(),
            reasons: [("rule".to_owned(), dropped), ("ceiling".to_owned(), 7)].into(),
        };
        let sent = Sent { packets: 2000, bytes: 0, elapsed: Duration::from_secs(1) };
        let since = counted(1100, 400, 510).since(&counted(100, 0, 10));
        assert_eq!((since.seen, since.arrived(class)), (1000, 1000));
        assert_eq!(since.came_through(class, &sent), (100, 50.0), "the link lost half");
        assert_eq!(since.by_reason(), "400 dropped by rule, 500 answered with cookies");
        assert_eq!(since.since(&since).by_reason(), "none removed");
    }
}
