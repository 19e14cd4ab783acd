//! Hetzner Cloud: its firewall only allows, and its DDoS protection cannot be asked for anything. The driver is
//! there to say so.

use std::time::Duration;

use crate::{
    act::upstream::{Driver, Witness},
    decide::ladder::{Report, Standing, Step, What},
};

/// Why the cloud's firewall is of no use against an attack.
const ALLOW_ONLY: &str = "Hetzner Cloud's firewall is a list of what may come in: it has no rule that drops, and no rate \
                          limit; use XDP or nftables on the server (docs/planes/hetzner.md)";
/// Why there is nothing to divert traffic with.
pub(super) const ALWAYS_ON: &str = "Hetzner's protection against DDoS is always on and cannot be asked for: there is no \
                                    scrubbing to divert traffic to (docs/planes/hetzner.md)";

/// A plane that does nothing.
#[derive(Debug)]
pub(super) struct HetznerCloud {
    name: String,
}

impl HetznerCloud {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

impl Driver for HetznerCloud {
    fn plane(&self) -> &str {
        &self.name
    }

    fn takes(&self, what: &What) -> Result<(), String> {
        Err(match what {
            What::Filter { .. } => ALLOW_ONLY.to_owned(),
            _ => ALWAYS_ON.to_owned(),
        })
    }

    fn reconcile(&mut self, wanted: &[Step], _: &dyn Witness) -> Report {
        let refusal = |step: &Step| self.takes(&step.what).err().map(|why| (step.id, Standing::Refused(why)));
        let steps = wanted.iter().filter_map(refusal).collect();
        Report { plane: self.name.clone(), steps, ..Report::default() }
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(3600)
    }
}
