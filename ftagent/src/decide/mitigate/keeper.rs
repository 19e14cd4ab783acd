//! Keeps the rules of the open incident: makes them, lets them count, enforces them, takes them
//! back, ends them.

mod hold;
mod judge;
mod narrow;

use std::collections::BTreeMap;

use ftagent_common::{TrafficClass, guard::socket};
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub use self::hold::HOLDERS;
use super::{
    Exempt, Measured, Mode, Phase, RuleCount, Wanted,
    collateral::{Jury, is_of_connections},
    evidence::{Target, clean, gather},
    life::{Life, Meter},
    memory::{Armed, Memory, Remembered, Worked},
    thin::{Left, Thinning},
};
use crate::{
    decide::{
        Event, Incident, Now, Severity,
        analyst::Analyst,
        baseline::{invalid, no_business},
        machine::{Current, note},
        reservoir::{Clean, Reservoir},
        synthesis::{self, Choice, Plan, Problem, exempt, predict},
    },
    rule::FlowMatch,
};

/// Rules of an incident at most.
const RULES: usize = 8;
/// Rules of an incident that people see, ended ones included.
const SHOWN: usize = 64;
/// Rules are looked for anew at most this often, nanoseconds; more rarely where none was found.
const AGAIN_NS: u64 = 300_000_000;
/// The longest time between two searches, nanoseconds.
const SELDOM_NS: u64 = 5_000_000_000;
/// See [`Remains`], nanoseconds.
const REMAINS_NS: f64 = 500e6;
/// Ticks with too much left that say that the attack has changed.
const LEFT_TICKS: u32 = 2;
/// A rule that matches less than this share of what may remain is of no use.
const USEFUL: f64 = 0.05;
/// A remembered rule is put in force if it matches this share of the attack.
const RECALLED: f64 = 0.2;
/// While the baseline is not trusted, only what is as sure as this is acted on.
const SURE_WHEN_COLD: f64 = 0.9;
/// Matches that are not tried again in an incident.
const REFUSED: usize = 64;
/// The socket table answers if it did within this time, nanoseconds.
const ORACLE_NS: u64 = 60_000_000_000;

/// What a tick says.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Its end.
    pub now: Now,
    /// Its length, nanoseconds.
    pub elapsed_ns: u64,
    /// What the rules did in it.
    pub counts: &'a [RuleCount],
    /// The packets.
    pub analyst: &'a Analyst,
    /// Clean traffic.
    pub reservoir: &'a Reservoir,
    /// What no rule may match.
    pub exempt: &'a Exempt,
    /// Packets a second of each class that are still ordinary.
    pub ordinary: &'a [f64],
    /// Packets and bits a second of each class below which an attack by it is over.
    pub exit: &'a [(f64, f64)],
    /// Packets a second of each class that clean traffic had at most, but for one second in a hundred.
    pub clean: &'a [f64],
    /// Whether rules drop.
    pub mode: Mode,
    /// Whether it is known what is normal.
    pub trusted: bool,
    /// Whether this host was seen to take more packets than it can.
    pub strained: bool,
}

impl Scene<'_> {
    /// Returns packets and bits a second below which what a target is about is over.
    fn exit_of(&self, target: &Target<'_>) -> (f64, f64) {
        let exits = target.classes.keys().filter_map(|class| self.exit.get(class.index()));
        exits.fold((0.0, 0.0), |sum, exit| (sum.0 + exit.0, sum.1 + exit.1))
    }

    /// Returns what is ordinary of a class, with nothing left of it yet.
    fn ordinary_of(&self, class: TrafficClass) -> Left {
        let at = class.index();
        let most = |list: &[f64]| list.get(at).copied().unwrap_or(f64::INFINITY);
        let exit = self.exit.get(at).copied().unwrap_or((f64::INFINITY, f64::INFINITY));
        Left { pps: 0.0, bps: 0.0, exit, ordinary_pps: most(self.ordinary).max(most(self.clean)) }
    }
}

/// The rules.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Keeper {
    lives: Vec<Life>,
    last_id: u32,
    /// The incident that they belong to.
    incident: Option<String>,
    refused: Vec<FlowMatch>,
    /// What operators took back: no rule of this incident matches any of it.
    barred: Vec<FlowMatch>,
    /// Packets of conversations for whose sake rules were withdrawn: no other rule is to hit them.
    spared: Vec<Clean>,
    memory: Memory,
    /// Conversations from before the attack that were seen lately.
    live: Meter,
    searched_ns: u64,
    pause_ns: u64,
    left_ticks: u32,
    /// What no rule matches.
    remains: Remains,
    told: Option<String>,
    changed: bool,
    /// The last search found no safe rule for part of the attack.
    stuck: bool,
    thinning: Thinning,
    /// When the socket table answered last, nanoseconds.
    oracle_ns: Option<u64>,
    /// When it was looked last who holds connections, nanoseconds.
    held_ns: u64,
    /// What was said last of those who do, without its numbers.
    holders_told: String,
}

impl Keeper {
    /// Returns what is wanted now, in the order in which it is tried, if that has changed.
    pub fn changes(&mut self) -> Option<Vec<Wanted>> {
        let armed = self.memory.take_changed();
        if !std::mem::take(&mut self.changed) && !armed {
            return None;
        }
        let incident = self.incident.as_deref().unwrap_or_default();
        // What is in shadow drops nothing: until it does, what is armed goes on.
        let does = |life: &Life, matches: &FlowMatch| life.phase == Phase::Enforcing && life.choice.matches == *matches;
        let taken = |matches: &FlowMatch| self.lives.iter().any(|life| does(life, matches));
        Some(self.lives.iter().map(|life| life.wanted(incident)).chain(self.memory.wanted(taken)).collect())
    }

    /// Returns the classes that are thinned while there is no safe rule, with the packets a second that
    /// each keeps.
    pub fn thinned(&self) -> &BTreeMap<TrafficClass, f64> {
        self.thinning.classes()
    }

    /// Returns the remembered rules that are armed, latest first.
    pub fn armed(&self, now_ns: u64) -> Vec<Armed> {
        self.memory.armed(now_ns)
    }

    /// Returns the remembered rules, as they outlive the daemon.
    pub fn remembered(&self) -> Vec<Remembered> {
        self.memory.remembered()
    }

    /// Takes over what an earlier life of the daemon remembered.
    pub fn remember(&mut self, remembered: Vec<Remembered>, now: Now) {
        self.memory.restore(remembered, now);
    }

    /// Has what is armed looked at anew: what may be dropped has changed.
    pub fn look_again(&mut self) {
        self.memory.look_again();
    }

    /// Returns whether it has to see every tick, incident or not.
    pub fn is_awake(&self) -> bool {
        !self.memory.is_empty()
    }

    /// Follows the remembered rules, whatever else goes on; `calm`: nothing is wrong. Returns what
    /// people should know.
    pub fn watch(&mut self, scene: &Scene<'_>, calm: bool) -> Vec<String> {
        let now_ns = scene.now.mono_ns;
        if scene.analyst.fresh().any(|seen| seen.packet.socket != socket::UNKNOWN) {
            self.oracle_ns = Some(now_ns);
        }
        let jury = Jury { began_ns: now_ns, by_sockets: self.has_oracle(now_ns) };
        self.memory.on_tick(scene, calm, jury)
    }

    fn has_oracle(&self, now_ns: u64) -> bool {
        self.oracle_ns.is_some_and(|at| now_ns.saturating_sub(at) < ORACLE_NS)
    }

    /// Returns the incident that rules are kept for.
    pub fn incident(&self) -> Option<&str> {
        self.incident.as_deref()
    }

    /// Returns the rules that drop, in the order in which they are tried.
    pub fn in_force(&self) -> impl Iterator<Item = &Life> {
        self.lives.iter().filter(|life| life.phase == Phase::Enforcing)
    }

    /// Gives rules numbers above this one: an earlier life gave out those up to it.
    pub fn count_from(&mut self, id: u32) {
        self.last_id = self.last_id.max(id);
    }

    /// Follows the open incident.
    pub fn on_tick(&mut self, current: Current<'_>, scene: &Scene<'_>) -> Vec<Event> {
        let Current { incident, classes, focus } = current;
        let now_ns = scene.now.mono_ns;
        let by_sockets = self.has_oracle(now_ns) && !incident.vectors.iter().any(|vector| is_of_connections(*vector));
        let target = Target { classes, focus, began_ns: incident.began.mono_ns, now_ns, by_sockets };
        let opening = self.incident.as_deref() != Some(&incident.id);
        if opening {
            self.incident = Some(incident.id.clone());
            self.adopt(incident, scene);
        }
        let exit = scene.exit_of(&target);
        let jury = Jury { began_ns: target.began_ns, by_sockets };
        let left = self.measure(&target, scene, exit.0, jury);
        let (left_pps, left_bps) = left.values().fold((0.0, 0.0), |sum, left| (sum.0 + left.pps, sum.1 + left.bps));
        let (mut events, withdrawn) = self.judge(incident, scene);
        events.extend(self.narrow(incident, &target, scene, withdrawn));
        events.extend(self.hold(incident, &target, scene));
        let too_much = self.remains.note(scene.elapsed_ns, (left_pps, left_bps)).exceeds(exit);
        self.left_ticks = if too_much { self.left_ticks + 1 } else { 0 };
        let due = now_ns.saturating_sub(self.searched_ns) >= self.pause_ns.max(AGAIN_NS);
        if !target.is_held() && (opening || due && self.left_ticks >= LEFT_TICKS) {
            events.extend(self.search(incident, &target, scene));
        }
        events.extend(self.thin(incident, scene, &left));
        self.share(incident, left_pps);
        self.report(incident);
        events
    }

    /// Thins what no rule is safe for.
    fn thin(&mut self, incident: &mut Incident, scene: &Scene<'_>, left: &BTreeMap<TrafficClass, Left>) -> Vec<Event> {
        let acts = acts(incident, scene);
        if scene.strained {
            self.thinning.strained(scene.now.mono_ns);
        }
        let lines = self.thinning.on_tick(scene.now.mono_ns, left, self.stuck, acts);
        incident.thinned = named(self.thinning.classes());
        tell(incident, scene.now, lines)
    }

    /// Remembers nothing of what is in force: the operator says that this load is normal.
    pub fn accept(&mut self, now_ns: u64) {
        self.memory.accept(now_ns);
        for life in &mut self.lives {
            self.memory.forget(&life.choice.matches);
            life.phase = Phase::Withdrawn;
        }
    }

    /// Ends everything: the incident is over.
    pub fn end(&mut self, incident: Option<&mut Incident>, now: Now) {
        if self.incident.take().is_none() {
            return;
        }
        self.changed |= !self.lives.is_empty();
        let mut lives = std::mem::take(&mut self.lives);
        for life in &mut lives {
            if let Some(incident) = &incident {
                keep(&mut self.memory, incident, life, now);
            }
            life.phase = Phase::Ended;
        }
        let lines = self.thinning.end();
        if let Some(incident) = incident {
            lives.iter().for_each(|life| show(incident, life));
            lines.into_iter().for_each(|line| note(incident, now, line));
            incident.thinned.clear();
        }
        let Self { memory, last_id, changed, oracle_ns, .. } = std::mem::take(self);
        *self = Self { memory, last_id, changed, oracle_ns, ..Self::default() };
    }

    /// Takes in what the rules did. Returns what no rule matches of the attack, by class.
    fn measure(
        &mut self,
        target: &Target<'_>,
        scene: &Scene<'_>,
        exit_pps: f64,
        jury: Jury,
    ) -> BTreeMap<TrafficClass, Left> {
        let memory = scene.analyst.memory();
        let now_ns = scene.now.mono_ns;
        let seconds = scene.elapsed_ns.max(1) as f64 / 1e9;
        let mut sampled = vec![0.0; self.lives.len()];
        let mut left: BTreeMap<TrafficClass, Left> = BTreeMap::new();
        for seen in scene.analyst.fresh() {
            let verdict = jury.verdict(&memory, seen);
            if verdict.is_benign() {
                self.live.note(seen.mark.tag, now_ns);
            }
            let (mut matched, mut free) = (false, true);
            for (life, sum) in self.lives.iter_mut().zip(&mut sampled) {
                if life.weigh(now_ns, seen, verdict, free) {
                    *sum += seen.weight;
                    matched = true;
                    // The next rules do not see what this one decided about.
                    free &= life.phase == Phase::Shadow;
                }
            }
            if !matched && !verdict.is_benign() && target.takes(seen) {
                let of_class = left.entry(seen.class).or_insert_with(|| scene.ordinary_of(seen.class));
                of_class.pps += seen.weight / seconds;
                of_class.bps += seen.weight * f64::from(seen.packet.wire) * 8.0 / seconds;
            }
        }
        self.live.settle(now_ns);
        for (life, sampled) in self.lives.iter_mut().zip(sampled) {
            let count = scene.counts.iter().find(|count| count.id == life.id);
            life.count(now_ns, scene.elapsed_ns, count, sampled);
            let least = if life.holder { 0.0 } else { (USEFUL * exit_pps).max(1.0) };
            if life.measured.pps > least {
                life.busy_ns = now_ns;
            }
        }
        left
    }

    /// Returns what no rule may match.
    fn exempt(&self, scene: &Scene<'_>) -> Vec<FlowMatch> {
        let mut flows = exempt::all(scene.exempt);
        flows.extend_from_slice(&self.barred);
        flows
    }

    /// Returns how many rules more an incident may have against what its packets have in common.
    fn room(&self) -> usize {
        RULES.saturating_sub(self.lives.iter().filter(|life| !life.holder).count())
    }

    fn refuse(&mut self, matches: FlowMatch) {
        self.refused.push(matches);
        if self.refused.len() > REFUSED {
            self.refused.remove(0);
        }
    }

    /// Looks for rules against what the present ones leave.
    fn search(&mut self, incident: &mut Incident, target: &Target<'_>, scene: &Scene<'_>) -> Vec<Event> {
        let now_ns = scene.now.mono_ns;
        self.searched_ns = now_ns;
        if incident.severity == Severity::Info {
            return Vec::new();
        }
        let evidence = gather(scene.analyst, target);
        let mut clean = clean(scene.reservoir, &evidence);
        clean.extend(&self.spared);
        let exempt = self.exempt(scene);
        let mut attack = evidence.attack.clone();
        let all = attack.len();
        attack.retain(|sample| !self.lives.iter().any(|life| life.choice.matches.matches(&sample.seen.subject())));
        let taken: Vec<&FlowMatch> = self.lives.iter().map(|life| &life.choice.matches).collect();
        let remembered: Vec<Choice> = self.memory.against(&incident.vectors, now_ns).cloned().collect();
        let share_of = |rest: usize| rest as f64 / all.max(1) as f64;
        let problem = Problem {
            attack: &attack,
            clean: &clean,
            exempt: &exempt,
            own: &scene.exempt.own,
            refused: &self.refused,
            most: self.room(),
            ordinary: scene.ordinary,
            exit: scene.exit,
            part: share_of(attack.len()),
            taken: &taken,
            seconds: evidence.seconds,
            calm: scene.reservoir.passed(),
        };
        let recalled = recall(&remembered, &problem);
        let rest: Vec<_> = attack
            .iter()
            .filter(|sample| !recalled.iter().any(|choice| choice.matches.matches(&sample.seen.subject())))
            .copied()
            .collect();
        let most = problem.most.saturating_sub(recalled.len());
        let mut plan = synthesis::plan(&Problem { attack: &rest, most, part: share_of(rest.len()), ..problem });
        plan.rules.retain(|choice| self.lives.iter().all(|life| life.choice.matches != choice.matches));
        scale(&mut plan, rest.len() as f64 / all.max(1) as f64);
        if all == 0 && target.classes.contains_key(&TrafficClass::Malformed) {
            plan.none_because = Some("no safe rule: malformed packets have no fields that rules look at".to_owned());
        }
        self.start(incident, scene, recalled, plan)
    }

    /// Begins with the rules of a plan, and with those that are remembered.
    fn start(&mut self, incident: &mut Incident, scene: &Scene<'_>, recalled: Vec<Choice>, plan: Plan) -> Vec<Event> {
        let now_ns = scene.now.mono_ns;
        let found = !plan.rules.is_empty() || !recalled.is_empty();
        self.pause_ns = if found { AGAIN_NS } else { (self.pause_ns * 2).clamp(AGAIN_NS, SELDOM_NS) };
        let acts = acts(incident, scene);
        let mut lines = Vec::new();
        for choice in recalled {
            let dropping = self.memory.dropping(&choice.matches);
            let at = self.begin(choice, now_ns);
            let Some(life) = self.lives.get_mut(at).filter(|_| acts) else { continue };
            // It was tried before, and what the last seconds held was its shadow.
            life.enforce(scene.now);
            let mut line = format!("rule {} enforced, as it is remembered: {}", life.id, life.choice.matches);
            if let Some((since, dropped)) = dropping.filter(|(since, _)| since.mono_ns >= incident.began.mono_ns) {
                line.push_str(&format!("; it was armed, and had dropped {dropped} packets"));
                incident.mitigated.get_or_insert(since);
            }
            lines.push(line);
        }
        for choice in plan.rules {
            self.begin(choice, now_ns);
        }
        self.stuck = plan.none_because.is_some();
        if let Some(why) = plan.none_because.filter(|why| self.told.as_deref().map(gist) != Some(gist(why))) {
            lines.push(why.clone());
            self.told = Some(why);
        }
        tell(incident, scene.now, lines)
    }

    /// Takes a rule in, in shadow; returns its place.
    pub(super) fn begin(&mut self, choice: Choice, now_ns: u64) -> usize {
        self.last_id += 1;
        self.changed = true;
        self.lives.push(Life::new(self.last_id, choice, now_ns));
        self.lives.len() - 1
    }

    /// Drops all rules, for tests of others.
    #[cfg(test)]
    pub(super) fn forget_rules(&mut self) {
        self.lives.clear();
    }

    /// Puts a rule in force, for tests of what follows.
    #[cfg(test)]
    pub(super) fn enforce(&mut self, at: usize) {
        if let Some(life) = self.lives.get_mut(at) {
            life.enforce(Now::default());
        }
    }

    /// Notes what share of the attack each rule matches.
    fn share(&mut self, incident: &Incident, left_pps: f64) {
        let matched: f64 = self.lives.iter().map(|life| life.measured.pps).sum();
        let all = (matched + left_pps).max(incident.pps).max(1.0);
        for Life { measured: Measured { pps, attack_share, .. }, .. } in &mut self.lives {
            *attack_share = (*pps / all).min(1.0);
        }
    }

    fn report(&self, incident: &mut Incident) {
        // What it dropped is known a tick after it was put in force.
        let drops = |life: &&Life| life.phase == Phase::Enforcing && life.measured.dropped > 0;
        if incident.mitigated.is_none() {
            incident.mitigated =
                self.lives.iter().filter(drops).filter_map(|life| life.enforced).min_by_key(|at| at.mono_ns);
        }
        for life in &self.lives {
            show(incident, life);
        }
    }
}

/// Remembers a rule that worked, and did no harm.
fn keep(memory: &mut Memory, incident: &Incident, life: &Life, now: Now) {
    if life.phase == Phase::Enforcing && life.measured.dropped > 0 && life.measured.benign_flows == 0 {
        let (vectors, classes, choice) = (&incident.vectors, &life.classes(), &life.choice);
        memory.keep(&Worked { incident: &incident.id, vectors, classes, choice }, now);
    }
}

fn named(classes: &BTreeMap<TrafficClass, f64>) -> BTreeMap<String, f64> {
    classes.iter().map(|(class, pps)| (class.as_str().to_owned(), *pps)).collect()
}

/// Returns whether rules may drop. While it is not known what is normal, a flood of what customers
/// send too may be customers: only what nobody has business with is acted on.
fn acts(incident: &Incident, scene: &Scene<'_>) -> bool {
    let idle = |class| no_business(class) || invalid(class);
    let classes = incident.findings.iter().flat_map(|finding| &finding.evidence.classes);
    let useless = classes.filter_map(|name| TrafficClass::from_name(name)).all(idle);
    let sure = scene.trusted || incident.confidence >= SURE_WHEN_COLD && useless;
    scene.mode.acts(sure) && incident.severity > Severity::Info
}

/// The rate that no rule matches, packets and bits a second, over about half a second: a sample of a
/// flood stands for many packets, and a few that belong to nobody's attack look like another.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Remains(f64, f64);

impl Remains {
    fn note(&mut self, elapsed_ns: u64, now: (f64, f64)) -> Self {
        let weight = 1.0 - libm::exp(-(elapsed_ns as f64) / REMAINS_NS);
        self.0 += (now.0 - self.0) * weight;
        self.1 += (now.1 - self.1) * weight;
        *self
    }

    fn exceeds(self, exit: (f64, f64)) -> bool {
        self.0 > exit.0 || self.1 > exit.1
    }
}

/// Writes lines into the timeline, and says so.
fn tell(incident: &mut Incident, now: Now, lines: Vec<String>) -> Vec<Event> {
    let mut events = Vec::new();
    for what in lines {
        note(incident, now, what.clone());
        events.push(Event::Changed { id: incident.id.clone(), what });
    }
    events
}

const fn is_wanted(phase: Phase) -> bool {
    matches!(phase, Phase::Shadow | Phase::Enforcing)
}

/// Puts a rule into the incident, in its present state.
fn show(incident: &mut Incident, life: &Life) {
    let report = life.report();
    match incident.rules.iter_mut().find(|shown| shown.id == life.id) {
        Some(shown) => *shown = report,
        None => incident.rules.push(report),
    }
    if incident.rules.len() > SHOWN {
        let over = incident.rules.iter().position(|rule| !is_wanted(rule.state));
        over.map(|at| incident.rules.remove(at));
    }
}

/// Returns the remembered rules that fit this attack as well, and cost no more than they may.
fn recall(remembered: &[Choice], problem: &Problem<'_>) -> Vec<Choice> {
    let mut found: Vec<Choice> = Vec::new();
    for choice in remembered {
        let predicted = predict(&choice.matches, problem);
        let cheap = predicted.clean_share <= synthesis::BUDGET && predicted.attack_share >= RECALLED;
        let allowed = !problem.refused.contains(&choice.matches)
            && !exempt::is_touched(&choice.matches, choice.action, problem.exempt);
        if cheap && allowed && found.len() < problem.most {
            found.push(Choice { predicted, ..choice.clone() });
        }
    }
    found
}

/// Shares were worked out of what was left: makes them shares of the whole attack.
fn scale(plan: &mut Plan, part: f64) {
    for choice in &mut plan.rules {
        choice.predicted.attack_share *= part;
        choice.runners_up.iter_mut().for_each(|other| other.predicted.attack_share *= part);
    }
}

/// The words of a reason without its numbers: those change all the time.
fn gist(why: &str) -> &str {
    why.split_once(": ").map_or(why, |(gist, _)| gist)
}
