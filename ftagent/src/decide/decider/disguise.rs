//! The same without anybody's address: what of a core, of inputs and of packets can be shown to strangers.

use std::net::IpAddr;

use ipnet::IpNet;

use super::*;
use crate::decide::{
    Packet,
    input::{Input, WatchedRule},
};

/// Changes an address: prefixes that two share stay as long.
type Change<'a> = &'a mut dyn FnMut(IpAddr) -> IpAddr;

impl Decider {
    /// Returns a core that knows what this one knows, but for what it knows by address and cannot tell any more:
    /// conversations, known sources, recent packets, incidents. `seed` keys its tables.
    #[must_use]
    pub fn disguised(&self, seed: u64, change: Change<'_>) -> Self {
        let settings = Settings { seed, ..self.settings };
        let fresh = Self::new(settings);
        let watched = self.watch.rules().map(|(id, matches, counts)| (id, matches.clone(), counts));
        let watched: Vec<_> =
            watched.filter_map(|(id, matches, counts)| Some((id, flow(matches, change)?, counts))).collect();
        let remembered = self.remembered().into_iter().filter_map(|known| {
            let vectors = known.vectors.clone();
            Some(Remembered { matches: flow(known.matches, change)?, incident: String::new(), vectors, ..known })
        });
        let remembered: Vec<_> = remembered.collect();
        let mut core = Self {
            baselines: self.baselines.clone(),
            detector: self.detector.clone(),
            destinations: self.destinations.disguised(change),
            analyst: self.analyst.disguised(seed),
            told: self.told.clone(),
            suspect_ns: self.suspect_ns.clone(),
            second: self.second.clone(),
            second_ns: self.second_ns,
            ticks: self.ticks,
            exempt: exempt(self.exempt.clone(), change),
            reservoir: self.reservoir.disguised(seed.rotate_left(41), change),
            sentry: self.sentry.clone(),
            now: self.now,
            ..fresh
        };
        core.watch(watched);
        core.restore_remembered(remembered, self.now);
        core
    }
}

impl Input {
    /// Returns it with other addresses.
    #[must_use]
    pub fn disguised(self, change: Change<'_>) -> Self {
        match self {
            Self::Bounds { exempt: of, mode } => Self::Bounds { exempt: exempt(of, change), mode },
            Self::Watch(rules) => {
                let rule = |rule: WatchedRule| Some(WatchedRule { matches: flow(rule.matches, change)?, ..rule });
                Self::Watch(rules.into_iter().filter_map(rule).collect())
            }
            // The ladder of a disguised core is not used: what it is about is addresses.
            Self::Upstream(_) => Self::Upstream(Box::default()),
            Self::Planes(_) => Self::Planes(Vec::new()),
            // Whose word it was is nobody's business either.
            Self::WithdrawRule { id, .. } => Self::WithdrawRule { id, by: "an operator".to_owned() },
            // Indicators are left out, and the incidents are others.
            Self::Tool { incident, .. } => Self::Tool { incident, named: None },
            Self::Accept(_)
            | Self::Reset(_)
            | Self::Uplink(_)
            | Self::Approve { .. }
            | Self::Deny { .. }
            | Self::Withdraw { .. } => self,
        }
    }
}

impl Packet {
    /// Returns it with other addresses, and without payload.
    #[must_use]
    pub fn disguised(&self, change: Change<'_>) -> Self {
        let ends = self.ends.map(|(src, dst)| (change(src), change(dst)));
        Self { ends, head: [0; crate::decide::packet::HEAD], head_len: 0, ..*self }
    }
}

fn exempt(exempt: Exempt, change: Change<'_>) -> Exempt {
    Exempt {
        flows: exempt.flows.into_iter().filter_map(|matches| flow(matches, change)).collect(),
        own: exempt.own.into_iter().map(change).collect(),
    }
}

/// Changes the addresses of a match; one that looks at payload is dropped, because there is none any more.
fn flow(matches: FlowMatch, change: Change<'_>) -> Option<FlowMatch> {
    let mut net = |net: IpNet| IpNet::new(change(net.addr()), net.prefix_len()).map(|net| net.trunc()).ok();
    let (src, dst) = (matches.src.and_then(&mut net), matches.dst.and_then(&mut net));
    matches.payload.is_empty().then_some(FlowMatch { src, dst, ..matches })
}
