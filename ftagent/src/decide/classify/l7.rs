//! Connections that are completed, and what they are used for.

use ftagent_common::TrafficClass::{self, *};

use super::super::{
    Vector,
    analyst::Seen,
    flows::{Flow, State, http, note},
    table::Tally,
};
use super::{
    scene::{Opinion, Proposal, Scene, Window},
    tcp::{self, is_whole},
    traits::{Traits, head_hash, only, weight},
};

/// Classes that make up a connection.
const CONNECTION: [TrafficClass; 7] = [HttpRequest, TlsClientHello, TcpData, TcpAck, TcpFin, TcpSyn, TcpRst];
/// A server's part of a handshake is smaller than this, bytes.
const CERTIFICATES: u32 = 16_384;
/// Segments that follow a ClientHello that is meant, often.
const MEANT: f64 = 6.0;
/// Requests or handshakes that a rule wants to see.
const ENOUGH: usize = 15;
/// Who connects says something within this time, nanoseconds …
const SILENCE_NS: u64 = 1_000_000_000;
/// … and at once where it speaks first, as browsers do: with the packet behind the one that completes
/// the handshake. Of a crowd of any kind some do. So much silence is enough of hundreds.
const COMMON_SILENCE_NS: u64 = 300_000_000;

/// Judges the excess that goes on within connections. `explained`: classes that are something else.
pub fn judge<'a>(scene: &Scene<'a>, window: &Window<'a>, explained: &[TrafficClass]) -> Vec<Opinion<'a>> {
    let classes: Vec<_> = CONNECTION
        .into_iter()
        .filter(|class| scene.excess_of(*class).is_some() && !explained.contains(class))
        .collect();
    if classes.is_empty() {
        return Vec::new();
    }
    let view = View {
        scene,
        window,
        classes,
        requests: window.of(HttpRequest),
        hellos: window.of(TlsClientHello),
        data: window.of(TcpData),
        syns: window.of(TcpSyn),
    };
    let rules = [View::slow, View::requests, View::hellos, View::idle, View::churn, View::messages];
    if let Some(proposal) = rules.iter().find_map(|rule| rule(&view)) {
        return vec![Opinion::Attack(proposal)];
    }
    let names: Vec<_> = view.classes.iter().map(|class| class.as_str()).collect();
    vec![Opinion::Ordinary(format!("{}: within connections that are used", names.join(", ")))]
}

struct View<'s, 'a> {
    scene: &'s Scene<'a>,
    window: &'s Window<'a>,
    classes: Vec<TrafficClass>,
    requests: &'s [&'a Seen],
    hellos: &'s [&'a Seen],
    data: &'s [&'a Seen],
    syns: &'s [&'a Seen],
}

impl<'a> View<'_, 'a> {
    fn propose(&self, vector: Vector, packets: Vec<&'a Seen>) -> Proposal<'a> {
        Proposal::new(self.scene, vector, &self.classes, packets)
    }

    fn flows(&self, list: &[&Seen], keep: impl Fn(&Seen) -> bool) -> usize {
        let mut tally = Tally::with_capacity(list.len(), self.scene.seed);
        list.iter().filter(|seen| keep(seen)).for_each(|seen| tally.add(seen.mark.tag, 1.0));
        tally.distinct()
    }

    /// Requests that are begun and fed in drips.
    fn slow(&self) -> Option<Proposal<'a>> {
        let scene = self.scene;
        let dripping = self.flows(self.data, |seen| seen.mark.drip);
        let is_unfinished =
            |seen: &Seen| scene.flow(seen).is_some_and(|flow| flow.has(note::UNFINISHED) && !flow.has(note::ANSWERED));
        let unfinished = self.flows(self.requests, is_unfinished);
        let begun = self.flows(self.requests, |_| true);
        let many = dripping >= 20 || (dripping >= 10 && dripping * 5 >= begun);
        let cut = unfinished >= 20 && unfinished * 2 >= begun;
        if !many && !cut {
            return None;
        }
        let packets = [self.requests, &only(self.data, |seen| seen.mark.drip)].concat();
        let held = dripping.max(unfinished);
        Some(self.propose(Vector::SlowHttp, packets).sure(
            0.7 + 0.25 * (held as f64 / 50.0).min(1.0),
            held >= 50,
            format!("{dripping} connections send a request in drips, {unfinished} requests do not end"),
        ))
    }

    /// Requests that nobody makes by hand.
    fn requests(&self) -> Option<Proposal<'a>> {
        let (scene, list) = (self.scene, self.requests);
        // What does not end is slow, not many.
        let steady = only(list, |seen| {
            seen.mark.state != State::Stray && scene.flow(seen).is_none_or(|flow| !flow.has(note::UNFINISHED))
        });
        if self.flows(self.data, |seen| seen.mark.drip) >= 5 {
            return None;
        }
        if steady.len() < ENOUGH || !self.carries(HttpRequest) {
            return None;
        }
        let asked = Requests::of(scene, &steady);
        let traits = Traits::of(scene, &steady);
        let rate = scene.rates.of(HttpRequest, 1_000_000_000).0 * weight(&steady) / weight(list).max(1.0);
        let by_source = rate * traits.sources.head_share(8) / 8f64.min(traits.many() as f64).max(1.0);
        // A page and what belongs to it are a handful of requests in one connection.
        let kept = only(&steady, |seen| scene.flow(seen).is_some_and(|flow| flow.requests >= 12));
        let by_flow = if weight(&kept) < 0.6 * weight(&steady) {
            0.0
        } else {
            rate * traits.flows.head_share(8) / 8f64.min(traits.flows.distinct() as f64).max(1.0)
        };
        // The busiest eight of a thousand samples have eight of them though everybody asks once.
        let again = traits.sources.head_share(8) * steady.len() as f64 >= 3.0 * 8f64.min(traits.many() as f64);
        let lift = scene.lift(HttpRequest);
        let (confidence, hard, why) = if asked.random_keys {
            (0.92, true, format!("{:.0} % ask for random names", asked.queries * 100.0))
        } else if asked.random_values && by_source >= 20.0 && asked.path >= 0.6 {
            (
                0.8,
                by_source >= 100.0 && steady.len() >= 200,
                format!("one path, another query each time, {by_source:.0} a second by source"),
            )
        } else if asked.random_values && asked.queried_path >= 0.9 && lift >= 2.0 {
            (0.65, false, "one path, another query each time".to_owned())
        } else if by_flow >= 20.0 && steady.len() >= 100 && asked.path >= 0.6 {
            (0.7, false, format!("one path, {by_flow:.0} times a second in one connection"))
        } else if asked.bare >= 0.8 && lift >= 4.0 && rate >= 50.0 {
            (0.75, false, format!("{:.0} % are requests without a single header", asked.bare * 100.0))
        } else if asked.posts >= 0.8
            && asked.path >= 0.8
            && lift >= 4.0
            && by_source >= 2.0
            && again
            && strangers(&steady)
        {
            (0.7, false, format!("one path is sent something, {by_source:.0} times a second by source"))
        } else if by_source >= 1000.0 && lift >= 10.0 && asked.path >= 0.9 {
            (0.55, false, format!("one path, {by_source:.0} times a second by source"))
        } else {
            return None;
        };
        Some(self.propose(Vector::HttpFlood, steady).sure(confidence, hard, why))
    }

    /// TLS handshakes that go no further.
    fn hellos(&self) -> Option<Proposal<'a>> {
        let scene = self.scene;
        let aged = only(self.hellos, |seen| {
            seen.mark.state != State::Stray && seen.packet.time_ns + 200_000_000 <= scene.now_ns
        });
        let unusual = scene.lift(TlsClientHello) >= 4.0 && self.carries(TlsClientHello);
        if aged.len() < ENOUGH || !(unusual || self.classes.contains(&TlsClientHello)) {
            return None;
        }
        let share = if is_whole(self.data) && is_whole(self.hellos) {
            let known = only(&aged, |seen| scene.flow(seen).is_some());
            let ended = only(&known, |seen| {
                scene.flow(seen).is_some_and(|flow| flow.after_hello == 0 && flow.answered_bytes() < CERTIFICATES)
            });
            if known.len() < ENOUGH { 0.0 } else { weight(&ended) / weight(&known).max(1.0) }
        } else {
            // Not all is sampled: two segments at least follow a ClientHello that is meant.
            let above = |class| (scene.rates.of(class, 1_000_000_000).0 - scene.normal(class)).max(0.0);
            let by_class = 1.0 - (above(TcpData) / (2.0 * above(TlsClientHello)).max(1.0)).min(1.0);
            by_class.min(1.0 - self.going_on(&aged))
        };
        (share >= 0.6).then(|| {
            self.propose(Vector::TlsFlood, aged).sure(
                0.5 + 0.4 * share,
                false,
                format!("{:.0} % of the handshakes go no further than the ClientHello", share * 100.0),
            )
        })
    }

    /// Returns the share of handshakes that go on, at least: those that are seen to, over those that
    /// would be seen to by the samples if they said no more than a few segments.
    fn going_on(&self, hellos: &[&'a Seen]) -> f64 {
        let found = only(hellos, |seen| self.scene.flow(seen).is_some());
        if found.is_empty() || self.data.is_empty() {
            return 0.0;
        }
        let goes_on = only(&found, |seen| self.scene.flow(seen).is_some_and(|flow| flow.after_hello > 0));
        let sampled = (self.data.len() as f64 / weight(self.data).max(1.0)).min(1.0);
        let noticed = 1.0 - (1.0 - sampled).powf(MEANT);
        (weight(&goes_on) / weight(&found).max(1.0) / noticed.max(0.01)).min(1.0)
    }

    /// Connections without a word.
    fn idle(&self) -> Option<Proposal<'a>> {
        let scene = self.scene;
        let excess = scene.excess_of(TcpSyn).filter(|_| self.classes.contains(&TcpSyn))?;
        // By class, because not every segment is sampled.
        let above = |class| (scene.rates.of(class, 1_000_000_000).0 - scene.normal(class)).max(0.0);
        let said = above(TcpData) + above(HttpRequest) + above(TlsClientHello);
        let opened = above(TcpSyn);
        let begun_ns = scene.now_ns.saturating_sub(excess.since_ns);
        if begun_ns < COMMON_SILENCE_NS || said >= 0.3 * opened || opened < 100.0 {
            return None;
        }
        let completed = tcp::by_followers(scene, self.window, excess.pps);
        if completed < 0.6 {
            return None;
        }
        let common = scene.lift(TcpSyn) >= 8.0 && said < 0.05 * opened;
        let long = begun_ns >= SILENCE_NS;
        let aged = long.then(|| self.silent(SILENCE_NS, 0, 0.7)).flatten();
        let aged = aged.or_else(|| common.then(|| self.silent(COMMON_SILENCE_NS, 100, 0.95)).flatten())?;
        let mut proposal = self.propose(Vector::TcpConnectionFlood, aged).sure(
            0.75 + 0.1 * completed,
            false,
            format!("{opened:.0} connections a second are opened, and {:.0} % carry anything", said / opened * 100.0),
        );
        proposal.completed = Some(completed);
        Some(proposal)
    }

    /// Returns the connections that began so long ago, where they are many, not a scan's, and `share` of
    /// the completed ones said nothing; `least` of these have to be seen.
    fn silent(&self, for_ns: u64, least: usize, share: f64) -> Option<Vec<&'a Seen>> {
        let scene = self.scene;
        let aged = only(self.syns, |seen| seen.packet.time_ns + for_ns <= scene.now_ns);
        let complete = only(&aged, |seen| scene.flow(seen).is_some_and(|flow| flow.has(note::COMPLETE)));
        let silent =
            only(&complete, |seen| scene.flow(seen).is_some_and(|flow| flow.halves.iter().all(|half| half.data == 0)));
        let is_silent = complete.len() < 10 || weight(&silent) >= share * weight(&complete);
        let traits = Traits::of(scene, &aged);
        let scan = traits.looks_swept() || traits.dports.distinct() * 2 > aged.len();
        (aged.len() >= 2 * ENOUGH && complete.len() >= least && is_silent && !scan).then_some(aged)
    }

    /// Strangers who connect to a service again and again, each more often than anybody needs it. Web
    /// services are asked so by ordinary programs.
    fn churn(&self) -> Option<Proposal<'a>> {
        let scene = self.scene;
        let excess = scene.excess_of(TcpSyn).filter(|_| self.classes.contains(&TcpSyn))?;
        let above = |class| (scene.rates.of(class, 1_000_000_000).0 - scene.normal(class)).max(0.0);
        let (opened, lift) = (above(TcpSyn), scene.lift(TcpSyn));
        let begun_ns = scene.now_ns.saturating_sub(excess.since_ns);
        let web = above(HttpRequest) + above(TlsClientHello);
        if !scene.trusted || begun_ns < COMMON_SILENCE_NS || opened < 100.0 || web >= 0.1 * opened || lift < 4.0 {
            return None;
        }
        let fresh = only(self.syns, |seen| !seen.mark.known);
        if fresh.len() < 2 * ENOUGH || !strangers(self.syns) {
            return None;
        }
        let completed = tcp::by_followers(scene, self.window, excess.pps);
        let traits = Traits::of(scene, &fresh);
        let many = (traits.many() as f64).clamp(1.0, 64.0);
        let each = opened * weight(&fresh) / weight(self.syns).max(1.0) * traits.sources.head_share(64) / many;
        let scan = traits.looks_swept() || traits.looks_like_sweep_of_hosts() || traits.dports.first_share() < 0.8;
        let often = if lift >= 8.0 { 2.0 } else { 10.0 };
        if completed < 0.6 || scan || traits.looks_forged() || each < often {
            return None;
        }
        let mut proposal = self.propose(Vector::TcpConnectionFlood, fresh).sure(
            0.7 + 0.1 * completed,
            false,
            format!("{opened:.0} connections a second are opened by strangers, {each:.0} by each"),
        );
        proposal.completed = Some(completed);
        Some(proposal)
    }

    /// Few connections that send very many small messages to a service, which has little to say.
    fn messages(&self) -> Option<Proposal<'a>> {
        let scene = self.scene;
        let small = only(self.data, |seen| {
            let quiet = |flow: &Flow| {
                let [first, second] = &flow.halves;
                !flow.has(note::OURS) && (second.packets == 0 || second.payload < first.payload / 2)
            };
            seen.mark.state == State::Steady
                && !seen.mark.response
                && seen.packet.sport > seen.packet.dport
                && seen.packet.payload <= 800
                && scene.flow_now(seen).is_some_and(quiet)
        });
        let excess = scene.excess_of(TcpData)?;
        let pps = excess.pps * weight(&small) / weight(self.data).max(1.0);
        let above = scene.above(TcpData).max(1.0);
        if small.len() < 50 || pps < 300.0 || pps < 0.5 * above {
            return None;
        }
        let traits = Traits::of(scene, &small);
        let (flows, lift) = (traits.flows.distinct(), scene.lift(TcpData));
        let busiest = traits.flows.head_share(16);
        let by_flow = pps * traits.flows.head_share(4) / 4f64.min(flows as f64);
        // No stream says the same in every segment.
        let mut lines = Tally::with_capacity(small.len(), scene.seed);
        for seen in &small {
            lines.add(head_hash(seen.packet.head(), 64) ^ u64::from(seen.packet.payload) << 48, seen.weight);
        }
        let same = lines.first_share();
        let junk = same >= 0.9 && pps >= 10.0 * flows as f64;
        let few = busiest >= 0.7 && by_flow >= 40.0;
        (flows >= 3 && (few || junk) && lift >= 2.0 && scene.trusted).then(|| {
            let what = if junk { "small messages that all say the same" } else { "small messages" };
            self.propose(Vector::TcpConnectionFlood, small).sure(
                0.6 + 0.02 * lift.min(10.0),
                false,
                format!("{:.0} {what} a second in each of {flows} connections", by_flow.min(pps)),
            )
        })
    }

    /// Returns whether a class is a considerable part of what exceeds normal.
    fn carries(&self, class: TrafficClass) -> bool {
        let all: f64 = self.classes.iter().map(|class| self.scene.above(*class)).sum();
        let own = self.scene.rates.of(class, 1_000_000_000).0 - self.scene.normal(class);
        self.classes.contains(&class) || own >= 0.05 * all
    }
}

/// Returns whether nearly all packets are of sources that were not known before.
fn strangers(list: &[&Seen]) -> bool {
    weight(&only(list, |seen| !seen.mark.known)) >= 0.8 * weight(list)
}

/// What is asked for.
struct Requests {
    /// Share of requests without a header: they end behind their first line.
    bare: f64,
    /// Share of requests that send something.
    posts: f64,
    /// Share of requests with a query.
    queries: f64,
    /// The names in the query differ from request to request.
    random_keys: bool,
    /// What the query says differs.
    random_values: bool,
    /// Share of the path that is asked for most.
    path: f64,
    /// The same among requests with a query.
    queried_path: f64,
}

impl Requests {
    fn of(scene: &Scene<'_>, list: &[&Seen]) -> Self {
        let tally = || Tally::with_capacity(list.len(), scene.seed);
        let (mut paths, mut queried, mut keys, mut values) = (tally(), tally(), tally(), tally());
        let mut queries = 0.0;
        for seen in list {
            let target = http::target(seen.packet.head()).unwrap_or_default();
            let mark = target.iter().position(|byte| *byte == b'?');
            let (path, query) = target.split_at(mark.unwrap_or(target.len()));
            paths.add(head_hash(path, 64), seen.weight);
            let Some((_, query)) = query.split_first() else { continue };
            queries += seen.weight;
            queried.add(head_hash(path, 64), seen.weight);
            let key = query.split(|byte| *byte == b'=').next().unwrap_or_default();
            keys.add(head_hash(key, 64), seen.weight);
            values.add(head_hash(query, 64), seen.weight);
        }
        let queries = queries / weight(list).max(1.0);
        let share =
            |keep: &dyn Fn(&[u8]) -> bool| weight(&only(list, |seen| keep(seen.packet.head()))) / weight(list).max(1.0);
        let random = |tally: &Tally| {
            queries >= 0.6 && tally.distinct() >= 12 && tally.spread() >= 0.2 && tally.first_share() <= 0.2
        };
        Self {
            bare: share(&|head| http::is_bare(head)),
            posts: share(&|head| head.starts_with(b"POST ")),
            queries,
            random_keys: random(&keys),
            random_values: random(&values),
            path: paths.first_share(),
            queried_path: queried.first_share(),
        }
    }
}
