//! Rules against those who hold connections and do not use them. Their packets look like those of customers
//! and are few; what tells them is whose connections they are.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{super::evidence::Target, Keeper, Scene, acts, tell};
use crate::{
    decide::{
        Event, Incident, Severity, Vector,
        classify::{Holder, Holders, holders},
        machine::RESTARTED,
        mitigate::{Phase, Predicted},
        synthesis::{Choice, exempt},
    },
    rule::{Action, FlowMatch, Ranges},
};

/// Rules of this kind that an incident has at most.
pub const HOLDERS: usize = 56;
/// How often it is looked who holds connections, nanoseconds.
const EVERY_NS: u64 = 1_000_000_000;
/// It takes some lines to tell who holds connections: so long nothing is said of it, nanoseconds.
const YOUNG_NS: u64 = 10_000_000_000;
/// Who talked here so long before the attack is a customer, seconds: a slow attack may take minutes to build up.
const BEFORE_S: u64 = 600;
const TCP: u8 = 6;

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
        let all: usize = found.proven.iter().map(|holder| holder.held).sum();
        let room = HOLDERS.saturating_sub(self.lives.iter().filter(|life| life.holder).count());
        let chosen = self.chosen(&found.proven, room, target, scene);
        let Some((first, _)) = chosen.first() else { return self.tell_why(incident, scene, &found) };
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

    /// Goes on with the rules against holders that an earlier life of the daemon made in this incident: requests
    /// that it saw, this one never will. What it took back stays away.
    pub(super) fn adopt(&mut self, incident: &mut Incident, scene: &Scene<'_>) {
        for report in incident.rules.iter().filter(|report| report.state == Phase::Withdrawn) {
            let Ok(matches) = report.matches.parse::<FlowMatch>() else { continue };
            if report.withdrawn_by.is_some() {
                self.bar(matches.clone());
            }
            self.refuse(matches);
        }
        let exempt = self.exempt(scene);
        let mut old: Vec<(u32, FlowMatch)> = Vec::new();
        for report in incident.rules.iter().filter(|report| report.reason.ends_with(RESTARTED)) {
            let matches = report.matches.parse().ok().filter(is_of_holder);
            old.extend(matches.map(|matches| (report.id, matches)));
        }
        old.retain(|(_, matches)| !exempt::is_touched(matches, Action::Drop, &exempt));
        let acts = acts(incident, scene);
        for (id, matches) in old.into_iter().take(HOLDERS) {
            let report = incident.rules.iter_mut().find(|report| report.id == id);
            let predicted = report.as_ref().map(|report| report.predicted).unwrap_or_default();
            let choice = Choice { matches, action: Action::Drop, predicted, runners_up: Vec::new() };
            let at = self.begin(choice, scene.now.mono_ns);
            let Some(life) = self.lives.get_mut(at) else { continue };
            life.holder = true;
            if acts {
                life.enforce(scene.now);
            }
            if let Some(report) = report {
                report.reason = format!("{}; goes on as rule {}", report.reason, life.id);
            }
        }
    }

    /// Says, once, why nobody is dropped by source.
    fn tell_why(&mut self, incident: &mut Incident, scene: &Scene<'_>, found: &Holders) -> Vec<Event> {
        let (gist, more) = match (found.proven.first(), found.unproven) {
            _ if self.lives.iter().any(|life| life.holder) => return Vec::new(),
            _ if scene.now.mono_ns.saturating_sub(incident.opened.mono_ns) < YOUNG_NS => return Vec::new(),
            (Some(first), _) => (
                "who holds connections was a customer before, or must not be matched",
                format!("{} holds {}, {} others hold some", first.source, first.held, found.proven.len() - 1),
            ),
            (None, 1..) => (
                "nothing shows that the connections are real: forged, translated or proxied",
                format!("{} sources seem to hold several", found.unproven),
            ),
            (None, 0) => (
                "nobody is seen to hold enough of the connections",
                "the server's time limit for a request closes them".to_owned(),
            ),
        };
        if self.holders_told == gist {
            return Vec::new();
        }
        gist.clone_into(&mut self.holders_told);
        tell(incident, scene.now, vec![format!("no safe rule by source: {gist}; {more}")])
    }

    /// Returns the rules against holders that there are none against yet, and that are allowed.
    fn chosen(
        &self,
        found: &[Holder],
        room: usize,
        target: &Target<'_>,
        scene: &Scene<'_>,
    ) -> Vec<(Holder, FlowMatch)> {
        let exempt = self.exempt(scene);
        let is_new = |matches: &FlowMatch| {
            self.lives.iter().all(|life| life.choice.matches != *matches) && !self.refused.contains(matches)
        };
        let fits =
            |(_, matches): &(Holder, FlowMatch)| is_new(matches) && !exempt::is_touched(matches, Action::Drop, &exempt);
        if room == 0 || found.is_empty() {
            return Vec::new();
        }
        let known = self.customers(target, scene);
        let is_stranger =
            |holder: &&Holder| !known.contains(&holder.source) && !scene.exempt.own.contains(&holder.source);
        let rules = found.iter().filter(is_stranger).filter_map(|holder| Some((*holder, against(holder)?)));
        rules.filter(fits).take(room).collect()
    }

    /// Returns the addresses that had talked here before somebody held anything. The reservoir is walked once for
    /// all holders: of either there may be thousands.
    fn customers(&self, target: &Target<'_>, scene: &Scene<'_>) -> BTreeSet<IpAddr> {
        let before_s = (target.began_ns / 1_000_000_000).saturating_sub(BEFORE_S);
        let clean = scene.reservoir.entries().filter(|clean| clean.verified && u64::from(clean.at_s) < before_s);
        clean.chain(&self.spared).map(|clean| clean.seen.src).collect()
    }
}

/// Returns whether a rule is one that [`against`] makes.
fn is_of_holder(matches: &FlowMatch) -> bool {
    let only = FlowMatch {
        src: matches.src.filter(|src| src.prefix_len() == src.max_prefix_len()),
        proto: Ranges::one(TCP),
        dport: matches.dport.clone(),
        ..FlowMatch::default()
    };
    only.src.is_some() && !only.dport.is_any() && *matches == only
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
