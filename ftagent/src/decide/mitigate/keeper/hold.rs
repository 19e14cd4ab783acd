//! Rules against those who hold connections and do not use them. Their packets look like those of customers
//! and are few; what tells them is whose connections they are.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{super::evidence::Target, Keeper, Scene, acts, tell};
use crate::{
    decide::{
        Event, Incident, Severity, Vector,
        classify::{Holder, holders},
        mitigate::Predicted,
        synthesis::{Choice, exempt},
    },
    rule::{Action, FlowMatch, Ranges},
};

/// Rules of this kind that an incident has at most.
pub const HOLDERS: usize = 56;
/// How often it is looked who holds connections, nanoseconds.
const EVERY_NS: u64 = 1_000_000_000;
/// Who took a whole answer so long before the attack is a customer, seconds.
const BEFORE_S: u64 = 60;
const TCP: u8 = 6;
const NOBODY: &str = "no safe rule by source: nobody is seen to hold enough of the connections; the server's time limit \
                      for a request closes them";

impl Keeper {
    /// Drops what comes from those who hold connections, where few enough hold many each. They had their
    /// shadow: it was seen for seconds what they do.
    pub(super) fn hold(&mut self, incident: &mut Incident, target: &Target<'_>, scene: &Scene<'_>) -> Vec<Event> {
        let now_ns = scene.now.mono_ns;
        let is_slow = incident.vectors.contains(&Vector::SlowHttp) && incident.severity > Severity::Info;
        if !is_slow || now_ns.saturating_sub(self.held_ns) < EVERY_NS {
            return Vec::new();
        }
        self.held_ns = now_ns;
        let found = holders(&scene.analyst.memory(), self.has_oracle(now_ns));
        let all: usize = found.iter().map(|holder| holder.held).sum();
        let room = HOLDERS.saturating_sub(self.lives.iter().filter(|life| life.holder).count());
        let chosen = self.chosen(&found, room, target, scene);
        let Some((first, _)) = chosen.first() else {
            let silent = std::mem::replace(&mut self.holders_told, true) || self.lives.iter().any(|life| life.holder);
            return if silent { Vec::new() } else { tell(incident, scene.now, vec![NOBODY.to_owned()]) };
        };
        self.holders_told = true;
        let held: usize = chosen.iter().map(|(holder, _)| holder.held).sum();
        let mut line = format!(
            "who holds connections to port {} and does not use them is dropped by source: {} sources, {held} of {all} connections",
            first.port,
            chosen.len(),
        );
        if chosen.len() == room {
            line.push_str("; there is room for no more of them");
        }
        let clean_flows = scene.reservoir.entries().filter(|clean| clean.verified).count() as u64;
        let acts = acts(incident, scene);
        for (holder, matches) in chosen {
            let attack_share = holder.held as f64 / all.max(1) as f64;
            let predicted = Predicted { attack_share, clean_flows, ..Predicted::default() };
            let choice = Choice { matches, action: Action::Drop, predicted, runners_up: Vec::new() };
            let at = self.begin(choice, now_ns);
            let Some(life) = self.lives.get_mut(at) else { continue };
            life.holder = true;
            if acts {
                life.enforce(scene.now);
            }
        }
        if !acts {
            line.push_str("; only counted so far");
        }
        tell(incident, scene.now, vec![line])
    }

    /// Returns the rules against holders that there are none against yet, and that are allowed.
    fn chosen(
        &self,
        found: &[Holder],
        room: usize,
        target: &Target<'_>,
        scene: &Scene<'_>,
    ) -> Vec<(Holder, FlowMatch)> {
        let exempt = exempt::all(scene.exempt);
        let is_new = |matches: &FlowMatch| {
            self.lives.iter().all(|life| life.choice.matches != *matches) && !self.refused.contains(matches)
        };
        let fits =
            |(_, matches): &(Holder, FlowMatch)| is_new(matches) && !exempt::is_touched(matches, Action::Drop, &exempt);
        let strangers = found.iter().filter(|holder| !self.is_customer(holder.source, target, scene));
        strangers.filter_map(|holder| Some((*holder, against(holder)?))).filter(fits).take(room).collect()
    }

    /// Returns whether an address is this host's own, or had taken answers here before somebody held anything.
    fn is_customer(&self, source: IpAddr, target: &Target<'_>, scene: &Scene<'_>) -> bool {
        let before_s = (target.began_ns / 1_000_000_000).saturating_sub(BEFORE_S);
        let clean = scene.reservoir.entries().filter(|clean| clean.verified && u64::from(clean.at_s) < before_s);
        let mut known = clean.chain(&self.spared).map(|clean| clean.seen.src);
        scene.exempt.own.contains(&source) || known.any(|src| src == source)
    }
}

/// Returns what matches what a source sends to the port that it holds connections to.
fn against(holder: &Holder) -> Option<FlowMatch> {
    let length = if holder.source.is_ipv4() { 32 } else { 128 };
    Some(FlowMatch {
        src: Some(IpNet::new(holder.source, length).ok()?),
        proto: Ranges::one(TCP),
        dport: Ranges::one(holder.port),
        ..FlowMatch::default()
    })
}
